//! Events of credits, `credits.low` and `credits.exhausted`.
//!
//! A spend does not wait for the chain of the audit: it leaves a row. The row is deleted in the transaction
//! that notes the entry, so each event is there once.

use super::unasked;
use crate::audit::{Act, Subject};
use crate::catalog::Catalog;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::spi::{self, Param, ResultRow};
use pg::transaction;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_note_credit_events => note_credit_events;
}

/// How many events one call notes at most, so that its transaction is short.
const MOST: i64 = 200;

struct Left {
    id: i64,
    keyspace: String,
    tenant_id: [u8; 16],
    key_id: Option<[u8; 16]>,
    event: String,
    balance: i64,
}

impl Left {
    fn read(row: ResultRow) -> Option<Left> {
        Some(Left {
            id: row.bigint(1)?,
            keyspace: row.text(2)?,
            tenant_id: row.uuid(3)?,
            key_id: row.uuid(4),
            event: row.text(5)?,
            balance: row.bigint(6)?,
        })
    }
}

/// Returns the number of events.
fn note_credit_events(_call: &Call) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    // The publisher does it.
    let noted = if catalog.is_subscriber() { 0 } else { catalog.as_owner(|| note(&catalog))? };
    Ok(noted.into_datum())
}

fn note(catalog: &Catalog) -> Result<i64> {
    let is_some = spi::execute("SELECT FROM keysmith_private.credit_event LIMIT 1", &[])?;
    if is_some == 0 {
        return Ok(0);
    }
    let keyspaces = unasked::keyspaces(catalog)?;
    let keyspaces: Vec<Param> = keyspaces.iter().map(|keyspace| Param::text(keyspace)).collect();
    // Rows of one purse have their order: who changes it holds its lock.
    let mut left = spi::all(
        "DELETE FROM keysmith_private.credit_event WHERE id IN (
             SELECT e.id FROM keysmith_private.credit_event e WHERE e.keyspace = ANY ($1)
             ORDER BY e.id LIMIT $2 FOR UPDATE SKIP LOCKED)
         RETURNING id, keyspace, tenant_id, key_id, event, balance",
        &[
            Param::array(pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, &keyspaces),
            Param::bigint(Some(MOST)),
        ],
        Left::read,
    )?;
    left.sort_by_key(|left| left.id);
    let actor = unasked::actor();
    for left in &left {
        let subject = left.key_id.as_ref().map_or(Subject::Tenant(&left.tenant_id), Subject::Key);
        // As jsonb is printed: the digest of the content is over this text.
        let state = format!("{{\"credits\": {}}}", left.balance);
        Act::made(&actor, &left.keyspace, subject).done_with(&left.event, &state)?;
    }
    if !left.is_empty() {
        // Whoever reads an event must find it after a crash, too.
        transaction::force_sync_commit();
    }
    Ok(i64::try_from(left.len()).unwrap_or(MOST))
}
