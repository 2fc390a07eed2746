//! What is stored of a ledger: its blocks, ranges and differences.

use super::entry::LedgerEntry;
use super::pending;
use keysmith_core::ledger::block::Block;
use keysmith_core::ledger::keys::LedgerId;
use keysmith_core::ledger::snapshot::Snapshot as Seen;
use pg::error::{Code, Error, Result};
use pg::scan::Snapshot;
use pg::server;
use pg::spi::{self, Param, ResultRow};
use pgrx::pg_sys::ItemPointerData;
use std::collections::BTreeMap;

/// Passes on each block with the number that it is found by, in the order of their bytes.
pub fn each_block(snapshot: &Snapshot, id: &LedgerId, with: impl FnMut(&[u8], u64)) -> Result<()> {
    let statement = "SELECT block, number FROM keysmith_private.ledger_block WHERE ledger_id = $1 ORDER BY block";
    each_numbered(snapshot, statement, id, with)
}

/// Passes on each stored range with the number that it is found by.
pub fn each_range(snapshot: &Snapshot, id: &LedgerId, with: impl FnMut(&[u8], u64)) -> Result<()> {
    let statement = "SELECT stored, range FROM keysmith_private.ledger_range WHERE ledger_id = $1";
    each_numbered(snapshot, statement, id, with)
}

fn each_numbered(
    snapshot: &Snapshot,
    statement: &str,
    id: &LedgerId,
    mut with: impl FnMut(&[u8], u64),
) -> Result<()> {
    spi::each_under(snapshot, statement, &[Param::uuid(id)], |row| {
        with(&row.bytes(1).unwrap_or_default(), number(&row, 2));
    })
}

fn number(row: &ResultRow, column: usize) -> u64 {
    row.bigint(column).unwrap_or_default().cast_unsigned()
}

/// Passes on each open difference with its place, in the order of their bytes.
pub fn each_difference(
    snapshot: &Snapshot,
    id: &LedgerId,
    mut with: impl FnMut(&[u8], Option<ItemPointerData>),
) -> Result<()> {
    spi::each_under(
        snapshot,
        "SELECT difference, ctid FROM keysmith_private.ledger_difference WHERE ledger_id = $1
         ORDER BY difference",
        &[Param::uuid(id)],
        |row| with(&row.bytes(1).unwrap_or_default(), row.tid(2)),
    )
}

/// The last block. `None` if there are no blocks; an error if it can't be read.
pub fn last_block(snapshot: &Snapshot, id: &LedgerId) -> Result<Option<Block>> {
    let stored = spi::query_under(
        snapshot,
        "SELECT block, number FROM keysmith_private.ledger_block WHERE ledger_id = $1
         ORDER BY number DESC LIMIT 1",
        &[Param::uuid(id)],
        |rows| rows.first().and_then(|row| Some((row.bytes(1)?, number(&row, 2)))),
    )?;
    let read = |(stored, number): (Vec<u8>, u64)| {
        let block = Block::decode(&stored).filter(|block| block.number == number);
        block.ok_or_else(|| {
            Error::new(Code::Conflict, "the last block of the ledger was altered")
                .hint("keysmith.verify_ledger says more.")
        })
    };
    stored.map(read).transpose()
}

/// A block, by its number.
pub fn block(id: &LedgerId, number: i64) -> Result<Option<Block>> {
    let stored = spi::query_now(
        "SELECT block FROM keysmith_private.ledger_block WHERE ledger_id = $1 AND number = $2",
        &[Param::uuid(id), Param::bigint(Some(number))],
        |rows| rows.first().and_then(|row| row.bytes(1)),
    )?;
    Ok(stored.and_then(|stored| Block::decode(&stored)))
}

/// Whether differences of a ledger are open.
pub fn is_open(snapshot: &Snapshot, id: &LedgerId) -> Result<bool> {
    spi::query_under(
        snapshot,
        "SELECT FROM keysmith_private.ledger_difference WHERE ledger_id = $1 LIMIT 1",
        &[Param::uuid(id)],
        |rows| rows.count() > 0,
    )
}

/// How many differences are open, of each ledger that has some. It reads the differences of all
/// ledgers once.
pub fn open_differences(snapshot: &Snapshot) -> Result<BTreeMap<LedgerId, i64>> {
    spi::query_under(
        snapshot,
        "SELECT ledger_id, pg_catalog.count(*) FROM keysmith_private.ledger_difference GROUP BY 1",
        &[],
        |rows| rows.iter().filter_map(|row| Some((row.uuid(1)?, row.bigint(2)?))).collect(),
    )
}

/// Which transactions a snapshot sees as decided.
pub fn seen(snapshot: &Snapshot) -> Result<Seen> {
    Seen::parse(&snapshot.text())
        .ok_or_else(|| Error::new(Code::Installation, "a snapshot has no text"))
}

/// Removes all that is stored of a ledger.
pub fn remove(id: &LedgerId) -> Result<()> {
    pending::note_end();
    for table in ["ledger", "ledger_difference", "ledger_block", "ledger_range"] {
        spi::change_now(
            &Snapshot::now(),
            &format!("DELETE FROM keysmith_private.{table} WHERE ledger_id = $1"),
            &[Param::uuid(id)],
            |_| (),
        )?;
    }
    Ok(())
}

/// Notes the table's OID and its name, which may have changed.
pub fn note_place(entry: &LedgerEntry) -> Result<()> {
    spi::change_now(
        &Snapshot::now(),
        "UPDATE keysmith_private.ledger l
         SET server = $2, database = $3, relation = c.oid, schema_name = n.nspname, table_name = c.relname
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE l.ledger_id = $1 AND c.oid = $4
           AND (l.server, l.database, l.relation, l.schema_name, l.table_name)
               IS DISTINCT FROM ($2, $3, c.oid, n.nspname, c.relname)",
        &[
            Param::uuid(&entry.id),
            Param::bigint(Some(server::system_identifier().cast_signed())),
            Param::oid(server::my_database()),
            Param::oid(entry.relation),
        ],
        |_| (),
    )
}
