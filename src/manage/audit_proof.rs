//! The proof of the audit: the ends of its chains, to be kept elsewhere, and whether each
//! chain is whole.

use super::authority;
use super::field::Within;
use super::json;
use super::level::functions;
use super::listing::put_all;
use super::progress;
use crate::audit::content::Content;
use crate::pepper;
use keysmith_core::chain::{Chain, Entry, Erased, Fault, Record, SEAL_LEN};
use pg::call::Call;
use pg::error::Result;
use pg::result_set::{Cell, ResultSet};
use pg::scan::Snapshot;
use pg::spi::{self, Param, ResultRow};
use pgrx::pg_sys::Datum;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

functions! {
    keysmith_audit_heads => audit_heads: Oversight;
    keysmith_audit_verify => audit_verify: Oversight;
}

/// Seals that were kept elsewhere, by keyspace.
type Kept = BTreeMap<String, Vec<(i64, Vec<u8>)>>;

/// The last entry of each chain, to be kept elsewhere.
fn audit_heads(call: &Call) -> Result<Option<Datum>> {
    put_all(
        call,
        needs::audit_heads,
        "SELECT DISTINCT ON (a.keyspace)
             a.keyspace, a.entry, pg_catalog.encode(a.hash, 'hex'), a.at
         FROM keysmith_private.audit_entry a ORDER BY a.keyspace, a.entry DESC",
        &[],
    )
}

/// An entry as `audit_heads` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    keyspace: String,
    entry: Within<1, { i64::MAX }>,
    hash: Seal,
    #[serde(default, rename = "at")]
    _at: IgnoredAny,
}

/// The seal of an entry, written in hexadecimal digits.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Seal(Vec<u8>);

impl TryFrom<String> for Seal {
    type Error = String;

    fn try_from(text: String) -> Result<Seal, String> {
        let seal = hex::decode(&text).ok().filter(|seal| seal.len() == SEAL_LEN);
        seal.map(Seal).ok_or_else(|| format!("must be {} hexadecimal digits", 2 * SEAL_LEN))
    }
}

fn read_kept(call: &Call, n: usize) -> Result<Kept> {
    let hint = "SELECT jsonb_agg(h) FROM keysmith.audit_heads() h gives an array to keep.";
    let heads = json::argument(call, n, "heads").map_err(|error| error.hint(hint))?;
    let heads: Vec<Head> = heads.unwrap_or_default();
    let mut kept = Kept::new();
    for Head { keyspace, entry, hash, .. } in heads {
        kept.entry(keyspace).or_default().push((entry.0, hash.0));
    }
    Ok(kept)
}

fn audit_verify(call: &Call) -> Result<Option<Datum>> {
    let mut kept = read_kept(call, 0)?;
    let result = ResultSet::of(call);
    authority::look(needs::audit_verify, |_| {
        // An erasure that commits meanwhile deletes content, and adds the entry that says so.
        let snapshot = Snapshot::now();
        // Keyspaces that have a chain, or must have one, and the newest pepper of their keys.
        let found = spi::query_under(
            &snapshot,
            "SELECT c.keyspace, pg_catalog.max(c.generation)::pg_catalog.int2 FROM (
                  SELECT keyspace, generation FROM keysmith_private.keyspace
                  UNION ALL SELECT keyspace, generation FROM keysmith_private.key
                  UNION ALL SELECT keyspace, 0 FROM keysmith_private.audit_entry
                  UNION ALL SELECT '*', 0 FROM keysmith_private.access) c
              GROUP BY c.keyspace ORDER BY c.keyspace",
            &[],
            |rows| {
                let newest =
                    |row: ResultRow| Some((row.text(1)?, row.smallint(2).unwrap_or_default()));
                rows.iter().filter_map(newest).collect()
            },
        )?;
        let mut keyspaces: BTreeMap<String, i16> = found;
        for keyspace in kept.keys() {
            keyspaces.entry(keyspace.clone()).or_default();
        }
        for (keyspace, generation) in keyspaces {
            let kept = kept.remove(&keyspace).unwrap_or_default();
            let chain = follow(&snapshot, &keyspace, generation, kept)?;
            // Whoever created the keyspace left an entry.
            let unmade = (chain.entries == 0)
                .then(|| Fault { entry: 1, problem: "entry 1 is missing".into() });
            let fault = chain.fault.or(unmade);
            result.put([
                Cell::text(&keyspace),
                Cell::boolean(fault.is_none()),
                Cell::bigint(Some(chain.entries)),
                Cell::bigint(fault.as_ref().map(|fault| fault.entry)),
                Cell::text_or_null(fault.as_ref().map(|fault| fault.problem.as_str())),
            ]);
        }
        Ok(())
    })?;
    Ok(None)
}

fn follow(
    snapshot: &Snapshot,
    keyspace: &str,
    generation: i16,
    kept: Vec<(i64, Vec<u8>)>,
) -> Result<Chain> {
    /// Seconds' work, for who waits.
    const NOTICE_EVERY: i64 = 10_000;
    let mut chain = Chain::new(kept, erased(snapshot, keyspace)?);
    let mut last = i64::MIN;
    while let Some(read) = follow_batch(&mut chain, snapshot, keyspace, last)? {
        pgrx::check_for_interrupts!();
        last = read;
        if chain.entries % NOTICE_EVERY == 0 {
            progress::checked(keyspace, chain.entries);
        }
    }
    // Each key's making was noted, with the pepper that it is stored with.
    chain.finish(generation);
    Ok(chain)
}

/// What the entries of a chain say about contents that were erased.
fn erased(snapshot: &Snapshot, keyspace: &str) -> Result<Vec<Erased>> {
    spi::query_under(
        snapshot,
        "SELECT a.entry, (r.range -> 0)::bigint, (r.range -> 1)::bigint
         FROM keysmith_private.audit_entry a
         JOIN keysmith_private.audit_content c ON c.digest = a.content
         CROSS JOIN LATERAL pg_catalog.jsonb_path_query(c.after,
             'strict $.entries[*] ? (@[0].type() == \"number\" && @[1].type() == \"number\")', '{}', true)
             AS r (range)
         WHERE a.keyspace = $1 AND a.action = 'erase_tenant'",
        &[Param::text(keyspace)],
        |rows| {
            let erased = |row: ResultRow| {
                Some(Erased { first: row.bigint(2)?, last: row.bigint(3)?, by: row.bigint(1)? })
            };
            rows.iter().filter_map(erased).collect()
        },
    )
}

/// Follows a chain's next entries, and tells the number of the last; `None` if there are no
/// more. The batch frees the memory of its rows.
fn follow_batch(
    chain: &mut Chain,
    snapshot: &Snapshot,
    keyspace: &str,
    after: i64,
) -> Result<Option<i64>> {
    spi::session(|| {
        spi::query_under(
            snapshot,
            "SELECT a.entry, a.at, a.action, a.generation, a.content, a.hash,
                    c.salt, c.role, c.session_role, c.acting_key, c.acting_member, c.client, c.tenant,
                    c.tenant_id, c.key_id,
                    c.before, c.after
             FROM keysmith_private.audit_entry a
             LEFT JOIN keysmith_private.audit_content c ON c.digest = a.content
             WHERE a.keyspace = $1 AND a.entry > $2
             ORDER BY a.entry LIMIT 100",
            &[Param::text(keyspace), Param::bigint(Some(after))],
            |rows| {
                let mut last = None;
                for row in rows.iter() {
                    let entry = row.bigint(1).unwrap_or_default();
                    last = Some(entry);
                    let action = row.text(3).unwrap_or_default();
                    let content = row.bytes(5).unwrap_or_default();
                    let entry = Entry {
                        keyspace,
                        entry,
                        generation: row.smallint(4).unwrap_or_default(),
                        at: row.timestamp(2).unwrap_or_default(),
                        action: &action,
                        content: &content,
                    };
                    let seal = row.bytes(6).unwrap_or_default();
                    let found = Content::digest_in(&row, 7);
                    chain.follow(pepper::peppers(), &Record { entry, seal: &seal, found });
                }
                last
            },
        )
    })
}
