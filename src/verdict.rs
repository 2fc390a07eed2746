//! What a decision answers: whom it is about, where the request leaves them, and the row.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use keysmith_core::policy::verdict::Reason;
use pg::composite::{self, Composite, ROOM_OF_ELEMENT};
use pg::varlena;
use pgrx::pg_sys::Datum;

/// Who is charged, as far as the rows of a key and its tenant tell.
pub struct Account<'a> {
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    /// The first of the key's line: successors share its limits and credits.
    pub key: [u8; 16],
    pub tenant: [u8; 16],
    /// The key in whose place it spends credits, if it was given by one that has its own.
    pub purse: Option<[u8; 16]>,
    /// As they are stored.
    pub limits: Option<&'a [u8]>,
    pub shared_limits: Option<&'a [u8]>,
    pub tenants_limits: Option<&'a [u8]>,
}

/// Where a request has left its key.
#[derive(Default)]
pub struct Standing<'a> {
    /// The limit that refuses, or else is the nearest to do so, and the calls in it.
    pub limit: Option<(&'a [u8], u32)>,
    /// In microseconds.
    pub retry_after: Option<i64>,
    pub credits_remaining: Option<i64>,
}

/// What is known of a key that was found.
pub struct Holder<'a> {
    pub key_id: [u8; 16],
    pub tenant: Option<&'a [u8]>,
    pub tenant_id: [u8; 16],
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    pub kind: &'a [u8],
    pub owner: Option<&'a [u8]>,
    pub role: Option<&'a [u8]>,
    pub scopes: &'a [&'a [u8]],
    /// The key's own scopes, and the names of its own role and of its owner's.
    pub own: &'a [&'a [u8]],
    pub roles: [Option<&'a [u8]>; 2],
    /// As it is stored in the key's row.
    pub metadata: Option<Datum>,
    pub expires_at: Option<i64>,
    pub account: Account<'a>,
}

/// A verdict's row, and what else is asked of it.
pub struct Verdict {
    pub row: Composite,
    pub status: i32,
    pub request_id: [u8; 16],
}

impl Verdict {
    #[inline]
    pub fn form(
        catalog: &Catalog,
        policy: &Policy,
        reason: Reason,
        holder: Option<&Holder>,
        standing: &Standing,
        moment: i64,
    ) -> Verdict {
        let answer = reason.answer();
        let wording = policy.wording(answer);
        let status = wording.and_then(|wording| wording.status).unwrap_or(answer.status());
        let code = wording.and_then(|wording| wording.code.as_deref());
        let code = code.unwrap_or(answer.code().as_bytes());
        let message = wording.and_then(|wording| wording.message.as_deref());
        let message = message.unwrap_or(answer.message().as_bytes());
        let reason_name = reason.name().as_bytes();
        let limit_name = standing.limit.map(|(name, _)| name);
        // SAFETY: a jsonb of the key's row.
        let metadata = holder
            .and_then(|holder| holder.metadata)
            .map(|json| unsafe { (varlena::fetched(json), varlena::size(json)) });
        let request_id = crate::request_id::next(moment);

        let of_holder = |holder: &Holder| {
            let texts = [holder.tenant, holder.owner, holder.role].into_iter().flatten();
            let texts = texts.chain([holder.keyspace, holder.environment, holder.kind]);
            let scopes = holder.scopes.iter().map(|scope| scope.len() + ROOM_OF_ELEMENT);
            texts.map(<[u8]>::len).chain(scopes).sum::<usize>()
        };
        let room = code.len()
            + message.len()
            + reason_name.len()
            + limit_name.map_or(0, <[u8]>::len)
            + holder.map_or(0, of_holder)
            + metadata.map_or(0, |(_, size)| size);
        // SAFETY: the type was found to have these columns.
        let mut row =
            unsafe { composite::row(catalog.tables.verdict, columns::VERDICT.len(), room) };
        row.boolean(reason == Reason::Ok);
        row.integer(Some(status));
        // The canonical vocabulary is ASCII, which is the same in every encoding.
        row.text(Some(code));
        row.text(Some(message));
        row.text(Some(reason_name));
        row.uuid(holder.map(|holder| &holder.key_id));
        row.text(holder.and_then(|holder| holder.tenant));
        row.uuid(holder.map(|holder| &holder.tenant_id));
        row.text(holder.map(|holder| holder.keyspace));
        row.text(holder.map(|holder| holder.environment));
        row.text(holder.map(|holder| holder.kind));
        row.text(holder.and_then(|holder| holder.owner));
        row.text(holder.and_then(|holder| holder.role));
        row.texts(holder.map(|holder| holder.scopes));
        // SAFETY: fetched, so that it lies in no other place.
        unsafe { row.stored(metadata.map(|(json, _)| json)) };
        row.bigint(holder.and_then(|holder| holder.expires_at));
        row.text(limit_name);
        row.bigint(standing.limit.map(|(_, remaining)| i64::from(remaining)));
        row.interval(standing.retry_after);
        row.bigint(standing.credits_remaining);
        row.uuid(Some(&request_id));
        Verdict { row: row.finish(), status, request_id }
    }
}
