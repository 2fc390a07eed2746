//! The worker as a process: what it is told, and how it leaves.

use crate::usage::queue::Queue;
use crate::usage::session::worker_slot::{ABSENT, RUNNING};
use pg::latch::Latch;
use pg::server;
use std::sync::atomic::Ordering::SeqCst;

/// How often to look whether a session needs the database for itself, in microseconds.
pub const LOOKS_AROUND: i64 = 500_000;
/// Requests without a known key are stored less often: a flood of them costs little.
pub const STORES_UNKNOWN: i64 = 5_000_000;

pub use pg::worker::{attend, shutdown_requested};

/// Whether the server stops, as the postmaster writes for `pg_ctl`. A single worker that is told to
/// end does not wait for the other backends.
pub fn server_is_stopping() -> bool {
    const STATUS_LINE: usize = 7;
    let file = std::fs::read_to_string(server::data_directory().join("postmaster.pid"));
    file.is_ok_and(|file| {
        file.lines().nth(STATUS_LINE).is_some_and(|line| line.trim() == "stopping")
    })
}

/// Frees the place, unless something came in the meantime.
pub fn step_down(queue: &Queue, place: usize) -> bool {
    let Some(signals) = queue.signals.get(place) else { return true };
    let has_left = queue.with(place, |database| {
        signals.worker.store(ABSENT, SeqCst);
        let is_idle = database.is_empty()
            && database.worker.wanted.is_empty()
            && signals.pending.load(SeqCst) == 0;
        if is_idle {
            database.worker.pid = 0;
            database.worker.latch = Latch::NONE;
            database.worker.since = 0;
        } else {
            signals.worker.store(RUNNING, SeqCst);
        }
        is_idle
    });
    has_left.unwrap_or(true)
}
