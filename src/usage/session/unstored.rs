//! The accepted requests that are not stored yet, for the search for keys that are not used.

use crate::usage::queue::Queue;
use crate::usage::session::{pending, worker_slot};
use keysmith_core::event::{ACCEPTED, Record};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;

/// The records that are not in the tables, as far as shared memory knows them.
pub enum Unstored {
    /// There is no shared memory, so records may be lost unnoticed.
    Unknown,
    /// Records wait, which may be of any key.
    Waiting,
    /// All that had come is stored.
    New(Newest),
}

/// The records that have come since.
pub struct Newest {
    queue: &'static Queue,
    place: usize,
    /// When the last record was dropped.
    pub last_dropped_at: Option<i64>,
}

thread_local! {
    static IS_DRAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` in a worker that has just stored all that had come. Under load there are always newer
/// records.
pub fn while_drained<T>(body: impl FnOnce() -> T) -> T {
    IS_DRAINED.set(true);
    let result = body();
    IS_DRAINED.set(false);
    result
}

pub fn unstored() -> Unstored {
    pending::hand_on();
    let Some((queue, place)) = worker_slot::find_place() else { return Unstored::Unknown };
    let pending = queue.signals.get(place).map_or(0, |signals| signals.pending.load(SeqCst));
    let counted = queue.with(place, |database| {
        (database.records.count, database.backlog, database.counters.last_dropped_at)
    });
    match counted {
        Some((count, 0, dropped_at)) if is_known(count == 0 && pending == 0) => {
            let last_dropped_at = Some(dropped_at).filter(|at| *at != 0);
            Unstored::New(Newest { queue, place, last_dropped_at })
        }
        _ => Unstored::Waiting,
    }
}

/// A worker looks when it has stored all, and not when it calls `maintain`.
fn is_known(is_empty: bool) -> bool {
    if pg::worker::is_one() { IS_DRAINED.get() } else { is_empty }
}

impl Newest {
    /// The keys of accepted requests whose records are in the queue now.
    pub fn keys(&self) -> HashSet<[u8; 16]> {
        let waiting = self.queue.peek(self.place, u32::MAX);
        let used = |bytes| match Record::decode(bytes) {
            Some(Record::Event(event)) if event.outcome == ACCEPTED => Some(event.key_id),
            _ => None,
        };
        waiting.iter().filter_map(|record| used(record.bytes)).collect()
    }
}
