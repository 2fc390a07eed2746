//! Looks for keys that are not used, a portion at a time, in the order of their ids.

use crate::usage::session::unstored::while_drained;
use crate::usage::settings;
use crate::usage::transaction::{Outcome, transaction};
use pg::clock::monotonic;
use pg::spi::{self, Param};

/// How long to pause after a look at all keys: so many times as long as that took, but not too long, since
/// keys are disabled within an hour. In microseconds.
const PAUSE: i64 = 100;
const LONGEST_PAUSE: i64 = 15 * 60_000_000;
/// The shortest pause, in flush intervals.
const SHORTEST_PAUSE: i64 = 10;

pub struct IdleKeys {
    /// The last key of the portion before.
    after: [u8; 16],
    took: i64,
    due_at: i64,
}

impl IdleKeys {
    pub fn new() -> IdleKeys {
        IdleKeys { after: [0; 16], took: 0, due_at: 0 }
    }

    pub fn is_due(&self) -> bool {
        monotonic() >= self.due_at
    }

    /// Disables the keys of a portion that are not used, after all records that had come were stored.
    /// False if it was the last portion.
    pub fn look(&mut self) -> Outcome<bool> {
        let start = monotonic();
        let next = while_drained(|| {
            transaction("disabling keys that are not used", || {
                spi::first(
                    "SELECT next_after FROM keysmith_private.disable_idle_keys($1)",
                    &[Param::uuid(&self.after)],
                    |row| row.uuid(1),
                )
            })
        });
        self.took += monotonic() - start;
        let next = next.inspect_err(|_| self.pause())?;
        match next {
            Some(after) => self.after = after,
            None => self.pause(),
        }
        Ok(next.is_some())
    }

    /// Begins again later.
    fn pause(&mut self) {
        let shortest = settings::flush_interval().saturating_mul(SHORTEST_PAUSE);
        let pause = self.took.saturating_mul(PAUSE).max(shortest).min(LONGEST_PAUSE);
        *self = IdleKeys { due_at: monotonic() + pause, ..IdleKeys::new() };
    }
}
