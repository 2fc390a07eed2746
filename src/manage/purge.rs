//! `purge_keys`: deletes the rows of keys that ended long ago. The audit and the totals of usage stay.

use super::authority;
use super::level::functions;
use crate::audit::{Act, Subject};
use keysmith_core::policy::lifetime::{self, LIFETIME_RULE};
use pg::call::Call;
use pg::clock;
use pg::error::{Error, Result};
use pg::scan::Snapshot;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_purge_keys => purge_keys: Admin;
}

/// A key that another transaction has locked is left for the next call. The first key of a line is kept
/// as long as another key spends its credits or counts with it. The locked rows can't change, and a new key is
/// made by one that stays.
const PURGE: &str = "
    WITH ended AS MATERIALIZED (
        SELECT k.key_id
        FROM keysmith_private.key k
        JOIN keysmith_private.tenant t USING (tenant_id)
        JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
        WHERE least(k.revoked_at, k.expires_at, k.created_at + t.max_lifetime,
                    k.created_at + s.max_lifetime) < $1
        FOR UPDATE OF k SKIP LOCKED
    ), needed AS MATERIALIZED (
        SELECT n.key_id
        FROM keysmith_private.key k, pg_catalog.unnest(ARRAY[k.origin, k.purse]) AS n (key_id)
        WHERE n.key_id IS NOT NULL AND NOT EXISTS (SELECT FROM ended e WHERE e.key_id = k.key_id)
    ), purged AS (
        DELETE FROM keysmith_private.key k USING ended e
        WHERE k.key_id = e.key_id AND NOT EXISTS (SELECT FROM needed n WHERE n.key_id = k.key_id)
        RETURNING k.key_id, k.keyspace
    ), credits AS (
        DELETE FROM keysmith_private.credit c USING purged p WHERE c.key_id = p.key_id
    ), uses AS (
        DELETE FROM keysmith_private.usage_last l USING purged p WHERE l.key_id = p.key_id
    )
    SELECT p.keyspace, pg_catalog.count(*) FROM purged p GROUP BY p.keyspace ORDER BY p.keyspace";

fn purge_keys(call: &Call) -> Result<Option<Datum>> {
    let older_than = call.interval(0, "older_than")?;
    let length = lifetime::length(older_than.month, older_than.day, older_than.time)
        .ok_or_else(|| Error::argument("older_than", LIFETIME_RULE))?;
    let purged = authority::act(needs::purge_keys, |caller| {
        // Folding writes times of last use as well.
        spi::execute("SELECT keysmith_private.usage_fold_lock(true)", &[])?;
        let before = clock::now().saturating_sub(length);
        let purged =
            spi::change_now(&Snapshot::now(), PURGE, &[Param::timestamp(Some(before))], |rows| {
                let of_keyspace = |row: spi::ResultRow| Some((row.text(1)?, row.bigint(2)?));
                rows.iter().filter_map(of_keyspace).collect::<Vec<_>>()
            })?;
        for (keyspace, keys) in &purged {
            let act = Act::made(&caller.actor, keyspace, Subject::Keyspace);
            act.done_with("purge_keys", &format!("{{\"keys\": {keys}}}"))?;
        }
        Ok(purged.iter().map(|(_, keys)| keys).sum::<i64>())
    })?;
    Ok(Some(Datum::from(purged)))
}
