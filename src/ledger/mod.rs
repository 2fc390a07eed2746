//! Ledgers of application tables: sums of keyed hashes of their rows.
//!
//! Triggers add what a statement changed to sums in the session's memory. At the commit, one row is
//! inserted with the difference. So writers share no lock and update no row of each other.

pub mod check;
pub mod close;
mod declare;
pub mod entry;
mod form;
pub mod pending;
pub mod stored;
mod table;
mod trigger;
pub mod triggers;
