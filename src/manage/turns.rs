//! Acts that take turns, by locks on numbers that belong to no object, so that no SQL statement
//! can lock them. Row locks are only for acts that change the row: an issuer who keeps a
//! transaction open must not keep administrators waiting.

use crate::audit::number_of;
use crate::catalog::Catalog;
use pg::error::Result;
use pg::lock::{self, Mode};
use pgrx::pg_sys::Oid;

/// Waits for the lock, and holds it until the transaction ends.
fn take(table: Oid, number: u32) {
    lock::object(table, Oid::from(number), Mode::Exclusive);
}

/// One turn for a whole table.
pub fn of_table(table: Oid) {
    take(table, 0);
}

/// Keeps a keyspace from being dropped until the transaction ends. Each act calls this before it locks
/// a row of the keyspace: otherwise it and `drop_keyspace` might wait for each other.
pub fn keep_keyspace(keyspace: &str) -> Result<()> {
    let table = Catalog::open()?.tables.keyspace.table;
    lock::object(table, Oid::from(number_of(keyspace)), Mode::RowExclusive);
    Ok(())
}

/// Waits until nobody else keeps a keyspace.
pub fn take_keyspace(keyspace: &str) -> Result<()> {
    take(Catalog::open()?.tables.keyspace.table, number_of(keyspace));
    Ok(())
}

/// One turn for the rows of an id. Two ids may share a number, which only costs time.
pub fn of_id(table: Oid, id: &[u8; 16]) {
    let (parts, _) = id.as_chunks::<4>();
    take(table, parts.iter().fold(0, |number, part| number ^ u32::from_ne_bytes(*part)));
}
