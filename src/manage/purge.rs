//! `purge_keys`: deletes the rows of keys that ended long ago. The audit and the totals of usage stay.

use super::authority;
use super::level::functions;
use super::unasked;
use crate::audit::{Act, Subject};
use crate::catalog::Catalog;
use crate::settings;
use keysmith_core::policy::lifetime::{self, LIFETIME_RULE};
use pg::call::Call;
use pg::clock;
use pg::error::{Error, Result};
use pg::scan::Snapshot;
use pg::spi::{self, Param};
use pgrx::pg_sys::{self, Datum};
use std::collections::HashSet;

functions! {
    keysmith_purge_keys => purge_keys: Admin;
}

/// How many missing entries about ends of keys one call adds at most.
const MOST: i64 = 200;

/// Keys whose end is not in the audit yet.
const DUE: &str = "
    SELECT key_id FROM keysmith_private.due_key_notice
    WHERE event = 'key.expired' AND ends_at < $1 AND keyspace = ANY ($2) ORDER BY key_id LIMIT $3";

/// A key that another transaction has locked is left for the next call, and so is one whose end is neither
/// in the audit nor among those that this call adds. The first key of a line is kept as long as another
/// key spends its credits or counts with it. The locked rows can't change, and a new key is made by one that
/// stays.
const ENDED: &str = "
    WITH ended AS MATERIALIZED (
        SELECT k.key_id, k.keyspace
        FROM keysmith_private.key k
        JOIN keysmith_private.tenant t USING (tenant_id)
        JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
        WHERE least(k.revoked_at, k.expires_at, k.created_at + t.max_lifetime,
                    k.created_at + s.max_lifetime) < $1
          AND (k.key_id = ANY ($2)
               OR NOT EXISTS (SELECT FROM keysmith_private.due_key_notice d
                              WHERE d.key_id = k.key_id AND d.event = 'key.expired'))
        FOR UPDATE OF k SKIP LOCKED
    ), needed AS MATERIALIZED (
        SELECT n.key_id
        FROM keysmith_private.key k, pg_catalog.unnest(ARRAY[k.origin, k.purse]) AS n (key_id)
        WHERE n.key_id IS NOT NULL AND NOT EXISTS (SELECT FROM ended e WHERE e.key_id = k.key_id)
    )
    SELECT e.key_id, e.keyspace
    FROM ended e WHERE NOT EXISTS (SELECT FROM needed n WHERE n.key_id = e.key_id)";

/// Those of locked keys whose end is not in the audit now: another transaction may have noted it before
/// they were locked.
const DUE_NOW: &str = "
    SELECT key_id FROM keysmith_private.due_key_notice
    WHERE key_id = ANY ($1) AND event = 'key.expired'";

const PURGE: &str = "
    WITH purged AS (
        DELETE FROM keysmith_private.key WHERE key_id = ANY ($1) RETURNING key_id, keyspace
    ), credits AS (
        DELETE FROM keysmith_private.credit c USING purged p WHERE c.key_id = p.key_id
    ), notices AS (
        DELETE FROM keysmith_private.key_notice n USING purged p WHERE n.key_id = p.key_id
    ), uses AS (
        DELETE FROM keysmith_private.usage_last l USING purged p WHERE l.key_id = p.key_id
    )
    SELECT p.keyspace, pg_catalog.count(*) FROM purged p GROUP BY p.keyspace ORDER BY p.keyspace";

struct Ended {
    key_id: [u8; 16],
    keyspace: String,
}

impl Ended {
    fn read(row: spi::ResultRow) -> Option<Ended> {
        Some(Ended { key_id: row.uuid(1)?, keyspace: row.text(2)? })
    }
}

fn purge_keys(call: &Call) -> Result<Option<Datum>> {
    let older_than = call.interval(0, "older_than")?;
    let length = lifetime::length(older_than.month, older_than.day, older_than.time)
        .ok_or_else(|| Error::argument("older_than", LIFETIME_RULE))?;
    let purged = authority::act(needs::purge_keys, |caller| {
        // Folding writes times of last use as well.
        spi::execute("SELECT keysmith_private.usage_fold_lock(true)", &[])?;
        let before = clock::now().saturating_sub(length);
        let ended = ended(before)?;
        let ids: Vec<[u8; 16]> = ended.iter().map(|key| key.key_id).collect();
        let due = spi::query_now(DUE_NOW, &[Param::uuids(Some(&ids))], |rows| {
            rows.iter().filter_map(|row| row.uuid(1)).collect::<HashSet<_>>()
        })?;
        // Their rows of key_notice would go with them.
        for key in ended.iter().filter(|key| due.contains(&key.key_id)) {
            Act::made(&unasked::actor(), &key.keyspace, Subject::Key(&key.key_id))
                .done("key.expired")?;
        }
        let purged =
            spi::change_now(&Snapshot::now(), PURGE, &[Param::uuids(Some(&ids))], |rows| {
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

/// Locks the keys that ended before a moment, and that nothing needs.
fn ended(before: i64) -> Result<Vec<Ended>> {
    let keyspaces = unasked::keyspaces(&Catalog::open()?)?;
    let keyspaces: Vec<Param> = keyspaces.iter().map(|keyspace| Param::text(keyspace)).collect();
    // The transaction makes other entries, too.
    let most = i64::try_from(settings::max_acts() / 2).map_or(MOST, |most| most.min(MOST));
    let before = || Param::timestamp(Some(before));
    let due = spi::query_now(
        DUE,
        &[
            before(),
            Param::array(pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, &keyspaces),
            Param::bigint(Some(most)),
        ],
        |rows| rows.iter().filter_map(|row| row.uuid(1)).collect::<Vec<_>>(),
    )?;
    spi::change_now(&Snapshot::now(), ENDED, &[before(), Param::uuids(Some(&due))], |rows| {
        rows.iter().filter_map(Ended::read).collect()
    })
}
