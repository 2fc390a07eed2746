//! Acts that take turns, by locks on numbers that belong to no object, so that no SQL statement
//! can lock them. Row locks are only for acts that change the row: an issuer who keeps a
//! transaction open must not keep administrators waiting.

use crate::audit::number_of;
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

/// Goes on beside others that are together at a name, and not beside one that is alone there.
pub fn together(table: Oid, name: &str) {
    lock::object(table, Oid::from(number_of(name)), Mode::RowExclusive);
}

/// Waits until the others have ended that are together at a name.
pub fn alone(table: Oid, name: &str) {
    take(table, number_of(name));
}

/// One turn for the rows of an id. Two ids may share a number, which only costs time.
pub fn of_id(table: Oid, id: &[u8; 16]) {
    let (parts, _) = id.as_chunks::<4>();
    take(table, parts.iter().fold(0, |number, part| number ^ u32::from_ne_bytes(*part)));
}
