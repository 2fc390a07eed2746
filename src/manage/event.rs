//! Events: a hint to listeners that something about a key has changed.

use super::sql::{self, Param};
use crate::error::Result;

/// Sends an event; it is delivered if and when the transaction commits.
pub fn send(
    event: &str,
    keyspace: &str,
    key_id: Option<&[u8; 16]>,
    tenant: Option<&str>,
) -> Result<()> {
    sql::execute(
        "SELECT pg_catalog.pg_notify(k.event_channel, pg_catalog.json_build_object(
             'event', $1, 'key_id', $3, 'tenant', $4,
             'keyspace', k.keyspace, 'at', pg_catalog.clock_timestamp())::text)
         FROM keysmith_private.keyspace k WHERE k.keyspace = $2",
        &[
            Param::text(event),
            Param::text(keyspace),
            Param::uuid_or_null(key_id),
            Param::text_or_null(tenant),
        ],
    )?;
    Ok(())
}
