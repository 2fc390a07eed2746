//! Events: hints to re-check, sent on a keyspace's channel when an act commits.

use super::sql::{self, Param};
use crate::error::Result;

/// What an event is about.
#[derive(Default)]
pub struct Subject<'a> {
    pub key_id: Option<&'a [u8; 16]>,
    pub tenant: Option<&'a str>,
}

impl<'a> Subject<'a> {
    pub fn key(key_id: &'a [u8; 16]) -> Self {
        Subject { key_id: Some(key_id), tenant: None }
    }

    pub fn tenant(tenant: &'a str) -> Self {
        Subject { key_id: None, tenant: Some(tenant) }
    }
}

/// Sends an event; it is delivered if and when the transaction commits.
pub fn send(event: &str, keyspace: &str, subject: Subject) -> Result<()> {
    sql::execute(
        "SELECT pg_catalog.pg_notify(k.event_channel, pg_catalog.json_build_object(
             'event', $1, 'key_id', $3, 'tenant', coalesce($4, t.name),
             'keyspace', k.keyspace, 'at', pg_catalog.clock_timestamp())::text)
         FROM keysmith.keyspace k
         LEFT JOIN keysmith.key key ON key.key_id = $3
         LEFT JOIN keysmith.tenant t ON t.tenant_id = key.tenant_id
         WHERE k.keyspace = $2",
        &[
            Param::text(event),
            Param::text(keyspace),
            match subject.key_id {
                Some(key_id) => Param::uuid(key_id),
                None => Param::given(pgrx::pg_sys::UUIDOID, None),
            },
            Param::text_or_null(subject.tenant),
        ],
    )?;
    Ok(())
}
