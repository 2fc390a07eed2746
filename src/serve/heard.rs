//! What a decision tells about a request, for its answer.

use crate::catalog::Catalog;
use crate::verdict::{Facts, Form, Words};
use keysmith_core::http::error::HttpError;
use keysmith_core::http::headers::Limit;
use keysmith_core::policy::verdict::Reason;
use pg::scratch::Memory;
use pg::text::lossy;

/// The parts of a verdict that answers need.
pub struct Heard {
    pub request_id: [u8; 16],
    pub is_good: bool,
    pub tenant: Option<Box<[u8]>>,
    pub key_id: Option<[u8; 16]>,
    pub limit: Option<Limit>,
    /// The refusal, if it is one.
    pub error: HttpError,
}

impl Form for Heard {
    type Record<'m> = Heard;

    fn record<'m>(_: &Catalog, _: Memory<'m>, facts: &Facts) -> Heard {
        let answer = facts.reason.answer();
        let words = Words::of(facts.policy, facts.reason);
        // Most requests are not refused: their words are not copied.
        let told = |text: &[u8]| if facts.reason.is_good() { String::new() } else { lossy(text) };
        Heard {
            request_id: *facts.request_id,
            is_good: facts.reason.is_good(),
            tenant: facts.holder.and_then(|holder| holder.tenant).map(Box::from),
            key_id: facts.holder.map(|holder| holder.key_id),
            limit: facts.standing.limit.as_ref().map(|limit| Limit {
                name: lossy(limit.name),
                calls: i64::from(limit.rate.limit()),
                window: i64::try_from(limit.rate.window()).ok(),
                remaining: i64::from(limit.remaining),
                reset: i64::try_from(limit.reset).ok(),
            }),
            error: HttpError {
                answer,
                status: words.status,
                code: told(words.code),
                message: told(words.message),
                request_id: None,
                retry_after: facts.standing.retry_after,
                missing_scopes: match facts.reason {
                    Reason::InsufficientScope => {
                        facts.standing.missing_scopes.as_deref().map(String::from)
                    }
                    _ => None,
                },
            },
        }
    }
}
