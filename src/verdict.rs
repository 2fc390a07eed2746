//! The answer of a decision: the key that it is about, the limits and credits that are left, and
//! the row.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::limit::Left;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::verify::Token;
use pg::composite::{Composite, ROOM_OF_ELEMENT};
use pg::json_record::JsonWriter;
use pg::jsonb::StoredJsonb;
use pg::record::RecordWriter;
use pg::scratch::Memory;
use std::rc::Rc;

/// Who is charged, from the rows of a key and its tenant.
pub struct Account<'a> {
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    /// The key from which this one was rotated at first: successors share its limits and credits.
    pub key: [u8; 16],
    pub tenant: [u8; 16],
    /// The member of the tenant that owns the key.
    pub member: Option<&'a [u8]>,
    /// The delegating key whose credits this key spends, if that key has credits.
    pub purse: Option<[u8; 16]>,
    /// Rate limits in their stored form.
    pub limits: Option<&'a [u8]>,
    pub shared_limits: Option<&'a [u8]>,
    pub tenants_limits: Option<&'a [u8]>,
}

/// The limits and credits of a key after a request, and what it lacks.
#[derive(Default)]
pub struct Standing<'a> {
    /// The limit that refuses the request, or otherwise the one that is used up first.
    pub limit: Option<Left<'a>>,
    /// In microseconds.
    pub retry_after: Option<i64>,
    pub credits_remaining: Option<i64>,
    /// The expression of scopes that is not met, if that is the reason.
    pub missing_scopes: Option<Box<str>>,
}

/// The facts about a key that was found.
pub struct Holder<'a> {
    pub key_id: [u8; 16],
    pub tenant: Option<&'a [u8]>,
    pub tenant_id: [u8; 16],
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    pub kind: &'a [u8],
    pub owner: Option<&'a [u8]>,
    pub role: Option<&'a [u8]>,
    pub label: Option<&'a [u8]>,
    /// The tenant's plan.
    pub plan: Option<&'a [u8]>,
    pub scopes: &'a [&'a [u8]],
    /// The scopes that no key of the tenant goes beyond.
    pub bound: Option<&'a [&'a [u8]]>,
    /// The scopes of the key, and the names of the roles of the key and of its owner.
    pub own: &'a [&'a [u8]],
    pub roles: [Option<&'a [u8]>; 2],
    /// The metadata in its stored form.
    pub metadata: Option<StoredJsonb<'a>>,
    /// The end of the key, or of the token that was presented in its place, if that is earlier.
    pub expires_at: Option<i64>,
    pub token: Option<&'a Rc<Token>>,
    pub account: Account<'a>,
}

/// The answer for the client, in the keyspace's wording.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub status: i32,
    pub code: &'a [u8],
    pub message: &'a [u8],
}

impl Words<'_> {
    #[inline(always)]
    pub fn of(policy: &Policy, reason: Reason) -> Words<'_> {
        let answer = policy.answer(reason);
        let wording = policy.wording(answer);
        let status = wording.and_then(|wording| wording.status).unwrap_or(answer.status());
        let code = wording.and_then(|wording| wording.code.as_deref());
        let message = wording.and_then(|wording| wording.message.as_deref());
        Words {
            status,
            // The default wording is ASCII, which is the same in every encoding.
            code: code.unwrap_or(answer.code().as_bytes()),
            message: message.unwrap_or(answer.message().as_bytes()),
        }
    }
}

/// The facts that a verdict tells.
pub struct Facts<'a> {
    /// The keyspace that was asked about, if it exists.
    pub keyspace: Option<&'a [u8]>,
    pub reason: Reason,
    pub words: Words<'a>,
    pub holder: Option<&'a Holder<'a>>,
    pub standing: &'a Standing<'a>,
    pub request_id: &'a [u8; 16],
}

/// The form of a verdict.
pub trait Form {
    type Record<'m>;

    /// Makes the verdict in a memory context.
    fn record<'m>(catalog: &Catalog, memory: Memory<'m>, facts: &Facts) -> Self::Record<'m>;
}

/// A row of the type `verdict`.
pub struct Row;

impl Form for Row {
    type Record<'m> = Composite<'m>;

    #[inline(always)]
    fn record<'m>(catalog: &Catalog, memory: Memory<'m>, facts: &Facts) -> Composite<'m> {
        let row_type = &catalog.tables.verdict;
        match facts.holder {
            // Most columns are null then. The compiler leaves out what writes their values.
            None => write(memory, facts, None, |room| row_type.row(memory, room)),
            holder => write(memory, facts, holder, |room| row_type.row(memory, room)),
        }
    }
}

/// A JSON object with the same columns.
pub struct Json;

impl Form for Json {
    type Record<'m> = <JsonWriter<'m> as RecordWriter>::Record;

    #[inline]
    fn record<'m>(_: &Catalog, memory: Memory<'m>, facts: &Facts) -> Self::Record<'m> {
        write(memory, facts, facts.holder, |room| JsonWriter::new(memory, columns::LABELS, room))
    }
}

/// A formed verdict, and the values that callers need besides it.
pub struct Verdict<'m, F: Form = Row> {
    pub record: F::Record<'m>,
    pub status: i32,
    pub request_id: [u8; 16],
}

impl<'m, F: Form> Verdict<'m, F> {
    /// Forms the verdict in a memory context.
    #[inline]
    pub fn form(memory: Memory<'m>, catalog: &Catalog, facts: &Facts) -> Verdict<'m, F> {
        Verdict {
            record: F::record(catalog, memory, facts),
            status: facts.words.status,
            request_id: *facts.request_id,
        }
    }
}

/// Writes the columns of a verdict. `begin` is given the total length of those of variable length.
#[inline(always)]
fn write<W: RecordWriter>(
    memory: Memory,
    facts: &Facts,
    holder: Option<&Holder>,
    begin: impl FnOnce(usize) -> W,
) -> W::Record {
    let Facts { keyspace, reason, words, standing, request_id, .. } = *facts;
    let Words { status, code, message } = words;
    let reason_name = reason.name().as_bytes();
    let limit = standing.limit.as_ref();
    let missing_scopes = standing.missing_scopes.as_deref().map(str::as_bytes);
    let limit_name = limit.map(|limit| limit.name);
    // Detoasted, so that the row contains the value itself.
    let metadata = holder.and_then(|holder| holder.metadata).map(|json| json.fetched(memory));

    let of_holder = |holder: &Holder| {
        let texts = [holder.tenant, holder.owner, holder.role, holder.label, holder.plan];
        let texts = texts.into_iter().flatten();
        let texts = texts.chain([holder.environment, holder.kind]);
        let scopes = holder.scopes.iter().map(|scope| scope.len() + ROOM_OF_ELEMENT);
        texts.map(<[u8]>::len).chain(scopes).sum::<usize>()
    };
    let room = code.len()
        + message.len()
        + reason_name.len()
        + keyspace.map_or(0, <[u8]>::len)
        + limit_name.map_or(0, <[u8]>::len)
        + limit.map_or(0, |limit| limit.unit.len())
        + missing_scopes.map_or(0, <[u8]>::len)
        + holder.map_or(0, of_holder)
        + metadata.map_or(0, |json| json.image().len());
    let mut row = begin(room);
    row.boolean(reason.is_good());
    row.integer(Some(status));
    row.text(Some(code));
    row.text(Some(message));
    row.text(Some(reason_name));
    row.uuid(holder.map(|holder| &holder.key_id));
    row.text(holder.and_then(|holder| holder.tenant));
    row.uuid(holder.map(|holder| &holder.tenant_id));
    row.text(keyspace);
    row.text(holder.map(|holder| holder.environment));
    row.text(holder.map(|holder| holder.kind));
    row.text(holder.and_then(|holder| holder.owner));
    row.text(holder.and_then(|holder| holder.role));
    row.texts(holder.map(|holder| holder.scopes));
    row.jsonb(metadata);
    row.timestamp(holder.and_then(|holder| holder.expires_at));
    row.text(limit_name);
    row.bigint(limit.map(|limit| i64::from(limit.remaining)));
    row.interval(standing.retry_after);
    row.bigint(standing.credits_remaining);
    row.uuid(Some(request_id));
    row.text(holder.and_then(|holder| holder.label));
    row.text(holder.and_then(|holder| holder.plan));
    row.text(missing_scopes);
    row.bigint(limit.map(|limit| i64::from(limit.bound.limit())));
    row.interval(limit.and_then(|limit| limit.bound.window()).map(microseconds));
    row.interval(limit.and_then(|limit| limit.reset).map(microseconds));
    row.text(limit.map(|limit| limit.unit));
    row.finish()
}

fn microseconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
