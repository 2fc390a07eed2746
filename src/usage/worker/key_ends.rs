//! Looks for keys that end, a portion at a time, in the order of their ids.

use crate::usage::settings;
use crate::usage::transaction::{Outcome, transaction};
use pg::clock::monotonic;
use pg::spi::{self, Param};

/// How long to pause after a look at all keys: so many times as long as that took, within bounds.
/// In microseconds; the shortest pause in flush intervals.
const PAUSE: i64 = 50;
const LONGEST_PAUSE: i64 = 5 * 60_000_000;
const SHORTEST_PAUSE: i64 = 5;

pub struct KeyEnds {
    /// The last key of the portion before.
    after: [u8; 16],
    took: i64,
    due_at: i64,
    /// Whether keys of the portions so far, or of the look before, will end.
    expected: bool,
    was_expected: bool,
}

impl KeyEnds {
    pub fn new() -> KeyEnds {
        KeyEnds { after: [0; 16], took: 0, due_at: 0, expected: false, was_expected: true }
    }

    pub fn is_due(&self) -> bool {
        monotonic() >= self.due_at
    }

    /// Whether keys will end. True before the first look at all of them.
    pub fn are_expected(&self) -> bool {
        self.expected || self.was_expected
    }

    /// Notes the ends in a portion. False if it was the last portion.
    pub fn look(&mut self) -> Outcome<bool> {
        let start = monotonic();
        let found = transaction("noting ends of keys", || {
            spi::first(
                "SELECT next_after, is_expected FROM keysmith_private.note_key_ends($1)",
                &[Param::uuid(&self.after)],
                |row| Some((row.uuid(1), row.boolean(2))),
            )
        });
        self.took += monotonic() - start;
        let (next, is_expected) = found.inspect_err(|_| self.pause())?.unwrap_or_default();
        self.expected |= is_expected;
        match next {
            Some(after) => self.after = after,
            None => {
                self.was_expected = self.expected;
                self.pause();
            }
        }
        Ok(next.is_some())
    }

    /// Begins again later.
    fn pause(&mut self) {
        let shortest = settings::flush_interval().saturating_mul(SHORTEST_PAUSE);
        let pause = self.took.saturating_mul(PAUSE).max(shortest).min(LONGEST_PAUSE);
        let was_expected = self.was_expected;
        *self = KeyEnds { due_at: monotonic() + pause, was_expected, ..KeyEnds::new() };
    }
}
