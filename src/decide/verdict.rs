//! A verdict as a row.

use super::toll::{Account, Standing};
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::varlena;
use keysmith_core::policy::verdict::Reason;
use pgrx::pg_sys::{self, Datum};

/// The columns of the type `keysmith.verdict`, in its order.
#[derive(Clone, Copy)]
#[allow(dead_code)]
enum Column {
    Ok,
    Status,
    Code,
    Message,
    Reason,
    KeyId,
    Tenant,
    TenantId,
    Keyspace,
    Environment,
    Kind,
    Owner,
    Role,
    Scopes,
    Metadata,
    ExpiresAt,
    LimitName,
    LimitRemaining,
    RetryAfter,
    CreditsRemaining,
    RequestId,
}

const COLUMNS: usize = Column::RequestId as usize + 1;

/// What a verdict tells of a key that was found: values as its row has them.
pub struct Holder<'a> {
    pub key_id: Option<Datum>,
    pub tenant: Option<Datum>,
    pub tenant_id: Option<Datum>,
    pub keyspace: Option<Datum>,
    pub environment: Option<Datum>,
    pub kind: Option<Datum>,
    pub owner: Option<Datum>,
    pub role: Option<&'a [u8]>,
    pub scopes: &'a [&'a [u8]],
    /// The key's own scopes, and the names of its own role and of its owner's.
    pub own: &'a [&'a [u8]],
    pub roles: [Option<&'a [u8]>; 2],
    pub metadata: Option<Datum>,
    pub expires_at: Option<Datum>,
    pub account: Account<'a>,
}

/// The row of a verdict, in the memory context in which it was formed.
pub struct Verdict {
    tuple: pg_sys::HeapTuple,
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
        let mut row = Values { values: [Datum::null(); COLUMNS], nulls: [true; COLUMNS] };
        let answer = reason.answer();
        row.set(Column::Ok, Some(Datum::from(reason == Reason::Ok)));
        let wording = policy.wording(answer);
        let status = wording.and_then(|wording| wording.status).unwrap_or(answer.status());
        let code = wording.and_then(|wording| wording.code.as_deref());
        let message = wording.and_then(|wording| wording.message.as_deref());
        row.set(Column::Status, Some(Datum::from(status)));
        row.set(Column::Code, Some(text(code.unwrap_or(answer.code().as_bytes()))));
        row.set(Column::Message, Some(text(message.unwrap_or(answer.message().as_bytes()))));
        row.set(Column::Reason, Some(text(reason.name().as_bytes())));
        if let Some(holder) = holder {
            row.set(Column::KeyId, holder.key_id);
            row.set(Column::Tenant, holder.tenant);
            row.set(Column::TenantId, holder.tenant_id);
            row.set(Column::Keyspace, holder.keyspace);
            row.set(Column::Environment, holder.environment);
            row.set(Column::Kind, holder.kind);
            row.set(Column::Owner, holder.owner);
            row.set(Column::Role, holder.role.map(text));
            row.set(
                Column::Scopes,
                Some(varlena::text_array(holder.scopes.iter().map(|scope| text(scope)).collect())),
            );
            // SAFETY: a jsonb of the key's row.
            row.set(
                Column::Metadata,
                holder.metadata.map(|json| unsafe { varlena::fetched(json) }),
            );
            row.set(Column::ExpiresAt, holder.expires_at);
        }
        let mut wait = pg_sys::Interval::default();
        row.set(Column::LimitName, standing.limit.map(|(name, _)| text(name)));
        row.set(
            Column::LimitRemaining,
            standing.limit.map(|(_, remaining)| Datum::from(i64::from(remaining))),
        );
        if let Some(microseconds) = standing.retry_after {
            wait.time = microseconds;
            row.set(Column::RetryAfter, Some(Datum::from(&raw const wait)));
        }
        row.set(Column::CreditsRemaining, standing.credits_remaining.map(Datum::from));
        let request_id = crate::request_id::next(moment);
        row.set(Column::RequestId, Some(Datum::from(request_id.as_ptr())));
        // SAFETY: the type is ours and has the columns listed above. All that the
        // values point to is copied into the tuple; the description is released.
        unsafe {
            let description = pg_sys::lookup_rowtype_tupdesc(catalog.tables.verdict, -1);
            assert!((*description).natts as usize == COLUMNS, "the type verdict was altered");
            let tuple = pg_sys::heap_form_tuple(
                description,
                row.values.as_mut_ptr(),
                row.nulls.as_mut_ptr(),
            );
            if (*description).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(description);
            }
            Verdict { tuple, status, request_id }
        }
    }

    /// The row as a value of its composite type.
    pub fn into_datum(self) -> Datum {
        // SAFETY: the tuple was formed with a composite type's description.
        unsafe { pg_sys::HeapTupleHeaderGetDatum((*self.tuple).t_data) }
    }

    /// Adds the row to a set-returning function's result.
    ///
    /// # Safety
    /// The store must be that of a set of verdicts.
    pub unsafe fn put(self, store: *mut pg_sys::Tuplestorestate) {
        // SAFETY: as the caller promises; the row is copied.
        unsafe { pg_sys::tuplestore_puttuple(store, self.tuple) };
    }
}

struct Values {
    values: [Datum; COLUMNS],
    nulls: [bool; COLUMNS],
}

impl Values {
    fn set(&mut self, column: Column, value: Option<Datum>) {
        if let Some(value) = value {
            self.values[column as usize] = value;
            self.nulls[column as usize] = false;
        }
    }
}

/// A text in the database's encoding. What the canonical vocabulary says is ASCII,
/// which is the same in every one of them.
fn text(bytes: &[u8]) -> Datum {
    // SAFETY: the length is that of the slice, which is far below a text's limit.
    unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) }.into()
}
