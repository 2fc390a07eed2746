//! Events that no act makes: a key will end soon, or has ended.
//!
//! The table `key_notice` has those that are in the audit. Its row and the note of the entry are of one
//! transaction, so each event is there once, whoever looks, and whatever ends in between.

use super::unasked;
use crate::audit::{Act, Subject};
use crate::catalog::Catalog;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param, ResultRow};
use pg::transaction;
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_note_key_ends => note_key_ends;
}

/// How many keys one call looks at, and how many events it notes at most, so that its transaction is
/// short.
const PORTION: i64 = 20_000;
const MOST: i64 = 200;

struct Due {
    key_id: [u8; 16],
    keyspace: String,
    ends_at: i64,
    event: String,
}

impl Due {
    fn read(row: ResultRow) -> Option<Due> {
        Some(Due {
            key_id: row.uuid(1)?,
            keyspace: row.text(2)?,
            ends_at: row.timestamp(3)?,
            event: row.text(4)?,
        })
    }
}

/// Looks at a portion of the keys. Returns a row with the last of them, which is null at the end, with
/// the number of events, and with whether a key of the portion will end later; no row on a subscriber.
fn note_key_ends(call: &Call) -> Result<Option<Datum>> {
    let after = call.uuid(0, "after")?;
    let catalog = Catalog::open()?;
    let result = ResultSet::of(call);
    // The publisher does it.
    if !catalog.is_subscriber() {
        let done = catalog.as_owner(|| portion(&catalog, &after))?;
        result.put([
            Cell::uuid_or_null(done.next.as_ref()),
            Cell::bigint(Some(done.noted)),
            Cell::boolean(done.is_expected),
        ]);
    }
    Ok(None)
}

struct Portion {
    next: Option<[u8; 16]>,
    noted: i64,
    is_expected: bool,
}

fn portion(catalog: &Catalog, after: &[u8; 16]) -> Result<Portion> {
    let end = spi::first(
        "SELECT key_id FROM keysmith_private.key WHERE key_id > $1 ORDER BY key_id OFFSET $2 LIMIT 1",
        &[Param::uuid(after), Param::bigint(Some(PORTION - 1))],
        |row| row.uuid(1),
    )?;
    let keyspaces = unasked::keyspaces(catalog)?;
    let keyspaces: Vec<Param> = keyspaces.iter().map(|keyspace| Param::text(keyspace)).collect();
    let found = spi::all(
        "SELECT key_id FROM keysmith_private.due_key_notice
         WHERE key_id > $1 AND key_id <= coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
           AND keyspace = ANY ($3)
         ORDER BY key_id LIMIT $4",
        &[
            Param::uuid(after),
            Param::uuid_or_null(end.as_ref()),
            Param::array(pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, &keyspaces),
            Param::bigint(Some(MOST)),
        ],
        |row| row.uuid(1),
    )?;
    let is_cut = i64::try_from(found.len()) == Ok(MOST);
    let next = if is_cut { found.last().copied() } else { end };
    let noted = if found.is_empty() { 0 } else { note(&found)? };
    let is_expected = spi::execute(
        "SELECT FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id)
         JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
         WHERE k.key_id > $1 AND k.key_id <= coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
           AND k.revoked_at IS NULL
           AND least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime)
               > pg_catalog.clock_timestamp()
         LIMIT 1",
        &[Param::uuid(after), Param::uuid_or_null(next.as_ref())],
    )?;
    Ok(Portion { next, noted, is_expected: is_expected > 0 || is_cut })
}

/// Notes what is due for these keys. Those that others change are left for later.
fn note(found: &[[u8; 16]]) -> Result<i64> {
    let locked = spi::all(
        "SELECT key_id FROM keysmith_private.key WHERE key_id = ANY ($1) ORDER BY key_id
         FOR NO KEY UPDATE SKIP LOCKED",
        &[Param::uuids(Some(found))],
        |row| row.uuid(1),
    )?;
    // From here on no act changes the keys themselves.
    let due = spi::all(
        "SELECT key_id, keyspace, ends_at, event FROM keysmith_private.due_key_notice
         WHERE key_id = ANY ($1) ORDER BY key_id",
        &[Param::uuids(Some(&locked))],
        Due::read,
    )?;
    let actor = unasked::actor();
    let mut noted = 0;
    for due in due {
        let is_new = spi::execute(
            "INSERT INTO keysmith_private.key_notice (key_id, ends_at, event) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            &[
                Param::uuid(&due.key_id),
                Param::timestamp(Some(due.ends_at)),
                Param::text(&due.event),
            ],
        )?;
        if is_new == 1 {
            Act::made(&actor, &due.keyspace, Subject::Key(&due.key_id)).done(&due.event)?;
            noted += 1;
        }
    }
    if noted > 0 {
        // Whoever reads an event must find it after a crash, too.
        transaction::force_sync_commit();
    }
    Ok(noted)
}
