//! Closes blocks of ledgers.

use crate::usage::transaction::{Outcome, transaction};
use pg::clock::monotonic;
use pg::spi;

/// The pause between blocks, in microseconds.
const PAUSE: i64 = 60_000_000;

#[derive(Default)]
pub struct Ledgers {
    due_at: i64,
}

impl Ledgers {
    pub fn is_due(&self) -> bool {
        monotonic() >= self.due_at
    }

    /// Closes blocks of the ledgers that changed. False if none was closed.
    pub fn look(&mut self) -> Outcome<bool> {
        self.due_at = monotonic() + PAUSE;
        let taken = transaction("closing blocks of ledgers", || {
            spi::first("SELECT keysmith_private.close_ledgers()", &[], |row| row.bigint(1))
        })?;
        Ok(taken.unwrap_or_default() > 0)
    }

    /// Whether some ledger has changed since its last block.
    pub fn are_open(&self) -> bool {
        let found = transaction("looking at ledgers", || {
            spi::execute("SELECT FROM keysmith_private.ledger_difference LIMIT 1", &[])
        });
        found.is_ok_and(|differences| differences > 0)
    }
}
