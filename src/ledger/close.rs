//! Closing blocks.

use super::entry::{Ledger, LedgerEntry, nonce, own_incarnation};
use super::stored;
use crate::catalog::Catalog;
use keysmith_core::ledger::block::Block;
use keysmith_core::ledger::closing::Closing;
use keysmith_core::ledger::keys::LedgerId;
use keysmith_core::ledger::problem::Problem;
use keysmith_core::ledger::sums::Sums;
use pg::error::{Code, Error, Result};
use pg::lock::{self, Mode};
use pg::scan::Snapshot;
use pg::spi::{self, Param, ResultRow};
use pg::user_table::name_of;
use pg::{clock, transaction};
use pgrx::pg_sys::{self, ItemPointerData, Oid};
use std::collections::BTreeMap;

/// How many ranges one statement reads or writes.
const BATCH: usize = 1000;

/// Lets one transaction at a time close blocks of a table's ledger. Writers don't take the lock.
pub fn lock(catalog: &Catalog, relation: Oid) {
    lock::object(catalog.tables.ledger.table, relation, Mode::Exclusive);
}

pub fn try_lock(catalog: &Catalog, relation: Oid) -> bool {
    lock::try_object(catalog.tables.ledger.table, relation, Mode::Exclusive)
}

/// The last block of a ledger, after closing one if differences count. Returns also how many it took. The
/// caller is the extension's owner, and has the lock.
pub fn close(ledger: &Ledger) -> Result<(Block, i64)> {
    let id = &ledger.entry.id;
    let own = transaction::full_id();
    // It is newer than the last block's, since it is taken under the lock.
    let snapshot = Snapshot::now();
    let last = stored::last_block(&snapshot, id)?.ok_or_else(|| altered(&Problem::NoBlocks))?;
    let seen = stored::seen(&snapshot)?.in_progress(own);
    let (incarnation, settings) = (own_incarnation(), ledger.entry.settings());
    let closing = Closing::after(&ledger.keys, last.clone(), incarnation, seen, &settings);
    let mut closing = closing.map_err(|problem| altered(&problem))?;
    let mut refused: Vec<ItemPointerData> = Vec::new();
    let mut taken = 0;
    stored::each_difference(&snapshot, id, |difference, place| match closing.add(difference) {
        Ok(()) => taken += 1,
        Err(_) => refused.extend(place),
    })?;
    if taken == 0 {
        return Ok((last, 0));
    }
    let block = write(ledger, &closing)?;
    stored::note_place(&ledger.entry)?;
    let refused: Vec<Param> = refused.into_iter().map(Param::tid).collect();
    spi::change_now(
        &snapshot,
        "DELETE FROM keysmith_private.ledger_difference
         WHERE ledger_id = $1 AND NOT ctid = ANY ($2)",
        &[Param::uuid(id), Param::array(pg_sys::TIDOID, pg_sys::TIDARRAYOID, &refused)],
        |_| (),
    )?;
    Ok((block, taken))
}

/// Writes the first block, with the rows that the table has.
pub fn begin(ledger: &Ledger, snapshot: &Snapshot, rows: &Sums) -> Result<()> {
    let seen = stored::seen(snapshot)?.in_progress(transaction::full_id());
    let settings = ledger.entry.settings();
    let mut closing = Closing::first(&ledger.keys, own_incarnation(), seen, &settings);
    closing.add_rows(rows);
    write(ledger, &closing)?;
    Ok(())
}

/// Writes a block and the ranges that it changes.
fn write(ledger: &Ledger, closing: &Closing) -> Result<Block> {
    let id = &ledger.entry.id;
    let block = closing.block(nonce()?, clock::now());
    spi::change_now(
        &Snapshot::now(),
        "INSERT INTO keysmith_private.ledger_block (ledger_id, number, block) VALUES ($1, $2, $3)",
        &[
            Param::uuid(id),
            Param::bigint(Some(block.number.cast_signed())),
            Param::bytes(&block.encode()),
        ],
        |_| (),
    )?;
    let ranges: Vec<i64> = closing.ranges().map(u64::cast_signed).collect();
    ranges.chunks(BATCH).try_for_each(|ranges| write_ranges(id, closing, &block, ranges))?;
    Ok(block)
}

fn write_ranges(id: &LedgerId, closing: &Closing, block: &Block, ranges: &[i64]) -> Result<()> {
    let bigints = |numbers| Param::array(pg_sys::INT8OID, pg_sys::INT8ARRAYOID, numbers);
    let all: Vec<Param> = ranges.iter().map(|range| Param::bigint(Some(*range))).collect();
    // By the index, even if the table has no statistics yet.
    let before: BTreeMap<i64, (Vec<u8>, ItemPointerData)> = spi::query_under(
        &Snapshot::now(),
        "SELECT g.range, g.stored, g.ctid FROM pg_catalog.unnest($2) AS r (range)
         CROSS JOIN LATERAL (SELECT range, stored, ctid FROM keysmith_private.ledger_range
                             WHERE ledger_id = $1 AND range = r.range LIMIT 1) AS g",
        &[Param::uuid(id), bigints(&all)],
        |rows| {
            let read = |row: ResultRow| Some((row.bigint(1)?, (row.bytes(2)?, row.tid(3)?)));
            rows.iter().filter_map(read).collect()
        },
    )?;
    let (mut kept, mut empty) = (Vec::new(), Vec::new());
    for range in ranges {
        let stored = before.get(range);
        let content = stored.map(|(content, _)| content.as_slice());
        let written = closing.range(nonce()?, block, range.cast_unsigned(), content);
        match written.map_err(|problem| altered(&problem))? {
            Some(written) => kept.push((*range, written)),
            None => empty.extend(stored.map(|(_, place)| Param::tid(*place))),
        }
    }
    let numbers: Vec<Param> = kept.iter().map(|(range, _)| Param::bigint(Some(*range))).collect();
    let contents: Vec<Param> = kept.iter().map(|(_, written)| Param::bytes(written)).collect();
    spi::change_now(
        &Snapshot::now(),
        "INSERT INTO keysmith_private.ledger_range (ledger_id, range, stored)
         SELECT $1, r.range, r.stored
         FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS r (range, stored)
         ON CONFLICT ON CONSTRAINT ledger_range_pkey DO UPDATE SET stored = excluded.stored",
        &[
            Param::uuid(id),
            bigints(&numbers),
            Param::array(pg_sys::BYTEAOID, pg_sys::BYTEAARRAYOID, &contents),
        ],
        |_| (),
    )?;
    spi::change_now(
        &Snapshot::now(),
        "DELETE FROM keysmith_private.ledger_range WHERE ctid = ANY ($1)",
        &[Param::array(pg_sys::TIDOID, pg_sys::TIDARRAYOID, &empty)],
        |_| (),
    )
}

/// Closes blocks of the ledgers that changed and that no other session closes. Returns how many
/// differences they took, and what went wrong.
pub fn close_all(catalog: &Catalog) -> Result<(i64, Vec<(Oid, String)>)> {
    let (mut taken, mut problems) = (0, Vec::new());
    let open = catalog.as_owner(|| stored::open_differences(&Snapshot::now()))?;
    for entry in LedgerEntry::all(catalog, &Snapshot::now()) {
        let entry = entry.or_of(catalog, Oid::INVALID)?;
        let relation = entry.relation;
        if name_of(relation).is_none() {
            // The table was dropped, unless it was not restored yet.
            if entry.is_here {
                catalog.as_owner(|| stored::remove(&entry.id))?;
            }
            continue;
        }
        if !open.contains_key(&entry.id) || !try_lock(catalog, relation) {
            continue;
        }
        // It may have ended before it was locked.
        let Some(entry) = LedgerEntry::find(catalog, &Snapshot::now(), &entry.id) else { continue };
        // An error must undo what was written before it.
        let closed = entry.with_keys().and_then(|ledger| {
            let close = || catalog.as_owner(|| close(&ledger));
            transaction::in_subtransaction(close, Result::is_ok)
        });
        match closed {
            Ok((_, count)) => taken += count,
            Err(error) => problems.push((relation, error.message().to_owned())),
        }
    }
    Ok((taken, problems))
}

/// The error for a ledger that can't be continued.
fn altered(problem: &Problem) -> Error {
    Error::new(Code::Conflict, format!("the ledger can't be continued: {}", problem.text())).hint(
        "keysmith.verify_ledger says more. After the cause is found, keysmith.unledger and \
             keysmith.ledger begin a new one.",
    )
}
