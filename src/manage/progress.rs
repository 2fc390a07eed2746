//! Notices of long work, for the session that waits for it.

use pg::transaction;
use std::cell::Cell;

/// How many keys are imported between two notices: a second's work or so.
const KEYS: u32 = 1000;

thread_local! {
    /// The transaction that imports, by its start, and how many keys it did.
    static IMPORTED: Cell<(i64, u32)> = const { Cell::new((0, 0)) };
}

/// Counts a key, and reports each thousandth of a transaction.
pub fn imported() {
    let transaction = transaction::started_at();
    let (of, before) = IMPORTED.get();
    let count = if of == transaction { before.saturating_add(1) } else { 1 };
    IMPORTED.set((transaction, count));
    if count % KEYS == 0 {
        pgrx::notice!("imported {count} keys");
    }
}

/// Tells how far the check of a chain is.
pub fn checked(keyspace: &str, entries: i64) {
    pgrx::notice!("checked {entries} entries of keyspace {keyspace:?}");
}
