//! Keys that are not used are disabled: the option `max_idle` of keyspaces.

use super::unasked;
use crate::audit::{Act, Subject};
use crate::catalog::Catalog;
use crate::identity;
use crate::usage::session::unstored::{Newest, Unstored, unstored};
use crate::usage::session::worker_slot;
use pg::call::{Call, sql_functions};
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param, ResultRow};
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_disable_idle_keys => disable_idle_keys;
}

/// How many keys one call looks at, and how many it disables at most, so that its transaction is short.
const PORTION: i64 = 20_000;
const MOST: i64 = 200;

/// An assignment for an act that names `max_idle`: keys count as used when it gets another value.
pub fn counted_from() -> (&'static str, Param<'static>) {
    (
        "max_idle_since = CASE WHEN n.max_idle = t.max_idle THEN t.max_idle_since
                               WHEN n.max_idle IS NOT NULL THEN $3 END",
        Param::timestamp(Some(clock::now())),
    )
}

/// Checks, after a change of a keyspace, that the requests of its keys are recorded if unused keys are
/// disabled. Has a worker started for that, which stays. `is_set`: the change sets `max_idle`.
pub fn check_is_recorded(keyspace: &str, is_set: bool) -> Result<()> {
    let usage_log = spi::first(
        "SELECT usage_log FROM keysmith_private.keyspace WHERE keyspace = $1 AND max_idle IS NOT NULL",
        &[Param::text(keyspace)],
        |row| row.text(1),
    )?;
    match usage_log.as_deref() {
        None => return Ok(()),
        Some("everything" | "totals") => {}
        Some(_) if is_set => {
            return Err(Error::argument("max_idle", "needs the usage_log everything or totals")
                .hint("Uses must be recorded, or keys in use would be disabled."));
        }
        Some(_) => {
            return Err(Error::argument(
                "usage_log",
                "must be everything or totals while max_idle is set",
            )
            .hint("Set max_idle to null first, or in the same call."));
        }
    }
    match worker_slot::find_place() {
        Some((queue, place)) => worker_slot::ensure(queue, place),
        None if is_set => {
            return Err(Error::new(
                Code::NotPreloaded,
                "unused keys can't be disabled: the library is not preloaded",
            )
            .hint("Add keysmith to shared_preload_libraries, and restart the server."));
        }
        None => {}
    }
    Ok(())
}

/// A key to disable, or one to enable again.
struct Found {
    key_id: [u8; 16],
    keyspace: String,
    is_enabled: bool,
}

impl Found {
    fn read(row: ResultRow) -> Option<Found> {
        Some(Found { key_id: row.uuid(1)?, keyspace: row.text(2)?, is_enabled: row.boolean(3) })
    }
}

/// Looks at a portion of the keys. Returns a row with the last of them, which is null at the end, and with
/// the number of those that are disabled; no row if records of uses are missing.
fn disable_idle_keys(call: &Call) -> Result<Option<Datum>> {
    let after = call.uuid(0, "after")?;
    let catalog = Catalog::open()?;
    let done = match unstored() {
        // The publisher does it, which has the records.
        _ if catalog.is_subscriber() => Some((None, 0)),
        Unstored::Unknown | Unstored::Waiting => None,
        Unstored::New(newest) => {
            let done = catalog.as_owner(|| portion(&catalog, &after, &newest))?;
            identity::doubt();
            Some(done)
        }
    };
    let result = ResultSet::of(call);
    if let Some((next, disabled)) = done {
        result.put([Cell::uuid_or_null(next.as_ref()), Cell::bigint(Some(disabled))]);
    }
    Ok(None)
}

fn portion(
    catalog: &Catalog,
    after: &[u8; 16],
    newest: &Newest,
) -> Result<(Option<[u8; 16]>, i64)> {
    let keyspaces = unasked::keyspaces(catalog)?;
    let keyspaces: Vec<Param> = keyspaces.iter().map(|keyspace| Param::text(keyspace)).collect();
    let end = spi::first(
        "SELECT key_id FROM keysmith_private.key WHERE key_id > $1 ORDER BY key_id OFFSET $2 LIMIT 1",
        &[Param::uuid(after), Param::bigint(Some(PORTION - 1))],
        |row| row.uuid(1),
    )?;
    let found = spi::all(
        "SELECT key_id FROM keysmith_private.idle_key
         WHERE key_id > $1 AND key_id <= coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
           AND (NOT is_enabled OR $3 IS NULL OR $3 <= pg_catalog.now() - max_idle)
           AND keyspace = ANY ($5)
         ORDER BY key_id LIMIT $4",
        &[
            Param::uuid(after),
            Param::uuid_or_null(end.as_ref()),
            Param::timestamp(newest.last_dropped_at),
            Param::bigint(Some(MOST)),
            Param::array(pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, &keyspaces),
        ],
        |row| row.uuid(1),
    )?;
    let is_cut = i64::try_from(found.len()) == Ok(MOST);
    let next = if is_cut { found.last().copied() } else { end };
    let disabled = if found.is_empty() { 0 } else { switch(&found, newest)? };
    Ok((next, disabled))
}

/// Disables keys, and enables those that were used after all. Returns the number of those that are
/// disabled.
fn switch(found: &[[u8; 16]], newest: &Newest) -> Result<i64> {
    let locked = spi::all(
        "SELECT key_id FROM keysmith_private.key WHERE key_id = ANY ($1) ORDER BY key_id
         FOR NO KEY UPDATE SKIP LOCKED",
        &[Param::uuids(Some(found))],
        |row| row.uuid(1),
    )?;
    // From here on nobody else switches them. They may have been used since the first look.
    let still = spi::all(
        "SELECT key_id, keyspace, is_enabled FROM keysmith_private.idle_key WHERE key_id = ANY ($1)
         ORDER BY key_id",
        &[Param::uuids(Some(&locked))],
        Found::read,
    )?;
    let used = newest.keys();
    let actor = unasked::actor();
    let mut disabled = 0;
    for key in still.iter().filter(|key| !(key.is_enabled && used.contains(&key.key_id))) {
        let act = Act::on(&actor, &key.keyspace, Subject::Key(&key.key_id))?;
        spi::execute(
            "UPDATE keysmith_private.key SET
                 disabled_at = CASE WHEN $2 THEN pg_catalog.clock_timestamp() END,
                 disabled_reason = CASE WHEN $2 THEN 'idle' END
             WHERE key_id = $1",
            &[Param::uuid(&key.key_id), Param::boolean(key.is_enabled)],
        )?;
        act.done(if key.is_enabled { "disable" } else { "enable" })?;
        if key.is_enabled {
            Act::made(&actor, &key.keyspace, Subject::Key(&key.key_id)).done("key.idle")?;
        }
        disabled += i64::from(key.is_enabled);
    }
    Ok(disabled)
}
