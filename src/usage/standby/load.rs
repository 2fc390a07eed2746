//! What a standby hands over.

use keysmith_core::event::{Event, Record};
use keysmith_core::unknown_tally;

/// An incarnation of a standby's shared memory.
pub struct Incarnation {
    /// The standby's name.
    pub standby: String,
    pub id: i64,
    /// How many records its sudden end could cost.
    pub most_waiting: i64,
    /// Whether the incarnation before it was shut down properly.
    pub started_cleanly: bool,
    /// How many records it has dropped so far.
    pub dropped: i64,
}

/// Records and counts. They may have been handed over before.
#[derive(Default)]
pub struct Load<'a> {
    pub records: Vec<(i64, Record<'a>)>,
    /// Records that are not taken, and why.
    pub unfit: Vec<(i64, Record<'a>, &'static str)>,
    /// How many requests without a known key there were when these were counted.
    pub unknown_mark: i64,
    pub unknown: Vec<unknown_tally::Count<'a>>,
    pub samples: Vec<Event<'a>>,
}

/// What is stored of an incarnation.
pub struct Marks {
    pub last_sequence: i64,
    pub unknown_seen: i64,
}
