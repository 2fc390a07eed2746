//! What a standby hands over.

use crate::usage::node::Node;
use keysmith_core::event::{Event, Record};
use keysmith_core::unknown_tally;

/// An incarnation of the shared memory of the server whose records these are.
pub struct Incarnation {
    pub node: Node,
    /// Whether the server was a primary: its own incarnation before, in its own tables.
    pub is_own: bool,
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
