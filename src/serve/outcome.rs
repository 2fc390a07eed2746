//! The parts of a verdict that the response to a request needs.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, access, columns};
use crate::decide::needs::NeededScopes;
use crate::identity::Identity;
use crate::verdict::{Facts, Form, Verdict, Words};
use keysmith_core::claims::Bound;
use keysmith_core::http::error::HttpError;
use keysmith_core::http::headers::{self, Header, Limit};
use keysmith_core::policy::scope::Required;
use keysmith_core::policy::verdict::{Answer, Reason};
use keysmith_core::policy::weights::CALLS;
use pg::call::Call;
use pg::error::Result;
use pg::jsonb::StoredJsonb;
use pg::record::{self, RecordWriter};
use pg::scratch::Memory;
use pg::{output, text};
use std::rc::Rc;

/// The parts of a verdict that responses need. As the form of a decision, it takes the place of a
/// row.
pub struct Outcome {
    /// That of a verdict that was given.
    keyspace: Option<Vec<u8>>,
    /// The refusal. If the request may go on, its answer is `Ok`.
    pub error: HttpError,
    limit: Option<Limit>,
    pub tenant: Option<Vec<u8>>,
    pub key_id: Option<[u8; 16]>,
}

impl Form for Outcome {
    type Record<'m> = Outcome;

    fn record<'m>(_: &Catalog, _: Memory<'m>, facts: &Facts) -> Outcome {
        let Facts { reason, words, holder, standing, .. } = *facts;
        // Most requests are not refused, and their words are not told.
        let told = |text: &[u8]| if reason.is_good() { String::new() } else { text::lossy(text) };
        Outcome {
            keyspace: None,
            error: HttpError {
                answer: reason.answer(),
                status: words.status,
                code: told(words.code),
                message: told(words.message),
                request_id: (!reason.is_good()).then(|| output::uuid(facts.request_id)),
                retry_after: standing.retry_after,
                missing_scopes: standing.missing_scopes.as_deref().map(String::from),
            },
            limit: standing.limit.as_ref().map(|limit| Limit {
                name: text::lossy(limit.name),
                calls: i64::from(limit.bound.limit()),
                window: limit.bound.window().and_then(|time| i64::try_from(time).ok()),
                remaining: i64::from(limit.remaining),
                reset: limit.reset.and_then(|time| i64::try_from(time).ok()),
                unit: match limit.bound {
                    Bound::Concurrent(_) => Some(CONCURRENT.into()),
                    Bound::Rate(_) => (limit.unit != CALLS).then(|| text::lossy(limit.unit)),
                },
            }),
            tenant: holder.and_then(|holder| holder.tenant).map(<[u8]>::to_vec),
            key_id: holder.map(|holder| holder.key_id),
        }
    }
}

/// What a limit of transactions in progress counts, as the draft of RateLimit fields names it.
const CONCURRENT: &str = "concurrent-requests";

impl Outcome {
    /// The verdict on a request of a person. Scopes are those of the member's role.
    pub fn of_person<'m>(
        person: &Identity,
        policy: &Policy,
        needs: &NeededScopes,
    ) -> Verdict<'m, Outcome> {
        let refusal = person.held(|held| {
            needs.refuses(held).map(|reason| (reason, needs.missing(held).map(String::from)))
        });
        let (reason, missing_scopes) = refusal.unwrap_or((Reason::Ok, None));
        let Words { status, code, message } = Words::of(policy, reason);
        let outcome = Outcome {
            keyspace: None,
            error: HttpError {
                answer: reason.answer(),
                status,
                code: text::lossy(code),
                message: text::lossy(message),
                request_id: Some(output::uuid(&person.request_id)),
                retry_after: None,
                missing_scopes,
            },
            limit: None,
            tenant: Some(person.tenant.to_vec()),
            key_id: None,
        };
        Verdict { record: outcome, status, request_id: person.request_id }
    }

    /// The verdict that is an argument, unless that is null. Anyone can form one, of any values.
    pub fn given(call: &Call, n: usize) -> Option<Outcome> {
        record::copied(call, n, columns::VERDICT, Writer::default())
    }

    pub fn is_refusal(&self) -> bool {
        self.error.answer != Answer::Ok
    }

    /// The policy of the verdict's keyspace; the default one if there is no such keyspace. The role must
    /// be one that decides there.
    pub fn policy(&self) -> Result<Rc<Policy>> {
        const MOST: usize = 63;
        let catalog = Catalog::open()?;
        let name = self.keyspace.as_deref().filter(|name| name.len() <= MOST);
        name.map_or(Ok(()), |name| access::must_decide(&catalog, name))?;
        catalog.policy(name.unwrap_or_default())
    }

    /// The headers of the response. `shows_key` says whether its body shows a key.
    pub fn headers(&self, policy: &Policy, shows_key: bool) -> Vec<Header> {
        self.headers_with(policy, &self.error, shows_key)
    }

    /// Likewise, for an error that follows after the request was let through.
    pub fn headers_with(&self, policy: &Policy, error: &HttpError, shows_key: bool) -> Vec<Header> {
        let facts = headers::Facts {
            answer: error.answer,
            missing_scopes: error.missing_scopes.as_deref(),
            retry_after: error.retry_after,
            limit: self.limit.as_ref(),
            shows_key,
        };
        headers::headers(&facts, &policy.schemes)
    }
}

/// Collects the fields of a verdict.
#[derive(Default)]
pub struct Writer(Vec<Field>);

enum Field {
    Null,
    Number(i64),
    Text(Vec<u8>),
}

/// The longest text of a verdict that is told, in bytes.
const MAX_TEXT_LEN: usize = 64 * 1024;

impl Writer {
    fn number(&self, column: &str) -> Option<i64> {
        match self.field(column)? {
            Field::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn bytes(&self, column: &str) -> Option<&[u8]> {
        match self.field(column)? {
            Field::Text(text) => Some(text),
            _ => None,
        }
    }

    fn text(&self, column: &str) -> Option<String> {
        self.bytes(column).map(text::lossy)
    }

    fn field(&self, column: &str) -> Option<&Field> {
        columns::VERDICT
            .iter()
            .zip(&self.0)
            .find_map(|((name, _), field)| (*name == column).then_some(field))
    }

    fn push(&mut self, number: Option<i64>) {
        self.0.push(number.map_or(Field::Null, Field::Number));
    }

    fn limit(&self) -> Option<Limit> {
        let window = self.number("limit_window");
        let unit = match self.text("limit_unit") {
            Some(unit) if unit.as_bytes() != CALLS => Some(unit),
            // Only such a limit counts calls in no window.
            Some(_) if window.is_none() => Some(CONCURRENT.into()),
            _ => None,
        };
        Some(Limit {
            name: self.text("limit_name")?,
            calls: self.number("limit_limit")?,
            window,
            remaining: self.number("limit_remaining")?,
            reset: self.number("limit_reset"),
            unit,
        })
    }

    /// The answer that the verdict stands for. Its code and status may be the keyspace's own.
    fn answer(&self) -> Answer {
        if self.number("ok") == Some(1) {
            return Answer::Ok;
        }
        let reason = self.text("reason").and_then(|reason| Reason::from_name(&reason));
        let by_code = || self.text("code").and_then(|code| Answer::from_code(&code));
        let by_status = || {
            let status = self.number("status");
            Answer::ALL.into_iter().find(|answer| Some(i64::from(answer.status())) == status)
        };
        let refusal = |answer: &Answer| *answer != Answer::Ok;
        let answer = reason.map(Reason::answer).filter(refusal);
        let answer = answer.or_else(|| by_code().filter(refusal));
        answer.or_else(|| by_status().filter(refusal)).unwrap_or(Answer::InternalError)
    }
}

impl RecordWriter for Writer {
    type Record = Outcome;

    fn boolean(&mut self, value: bool) {
        self.push(Some(value.into()));
    }

    fn integer(&mut self, value: Option<i32>) {
        self.push(value.map(i64::from));
    }

    fn bigint(&mut self, value: Option<i64>) {
        self.push(value);
    }

    fn timestamp(&mut self, value: Option<i64>) {
        self.push(value);
    }

    fn uuid(&mut self, value: Option<&[u8; 16]>) {
        let text = value.map(|uuid| output::uuid(uuid).into_bytes());
        self.0.push(text.map_or(Field::Null, Field::Text));
    }

    fn interval(&mut self, value: Option<i64>) {
        self.push(value);
    }

    fn text(&mut self, value: Option<&[u8]>) {
        let told = |text: &[u8]| text[..text::clipped(text, MAX_TEXT_LEN)].to_vec();
        self.0.push(value.map(told).map_or(Field::Null, Field::Text));
    }

    fn texts(&mut self, _: Option<&[&[u8]]>) {
        self.0.push(Field::Null);
    }

    fn jsonb(&mut self, _: Option<StoredJsonb>) {
        self.0.push(Field::Null);
    }

    fn finish(self) -> Outcome {
        let answer = self.answer();
        let default = HttpError::new(answer);
        let status = self.number("status").and_then(|status| status.try_into().ok());
        let error = HttpError {
            status: status.unwrap_or(default.status),
            code: self.text("code").unwrap_or(default.code),
            message: self.text("message").unwrap_or(default.message),
            request_id: self.text("request_id"),
            retry_after: self.number("retry_after"),
            missing_scopes: self.text("missing_scopes"),
            answer,
        };
        Outcome {
            keyspace: self.bytes("keyspace").map(<[u8]>::to_vec),
            error,
            limit: self.limit(),
            tenant: None,
            key_id: None,
        }
    }
}
