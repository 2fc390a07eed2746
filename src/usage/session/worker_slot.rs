//! This database's place in the queue, and its worker.

use crate::usage::queue::{Queue, queue};
use crate::usage::restart::losses;
use pg::clock::{self, monotonic};
use pg::latch::Latch;
use pg::server;
use pg::worker::Kind;
use pgrx::pg_sys::Datum;
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// There is no worker; one was asked for; one runs.
pub const ABSENT: u32 = 0;
pub const STARTING: u32 = 1;
pub const RUNNING: u32 = 2;

/// How long a worker may take to start before another is asked for, and how long to wait after
/// there was no process for one. In microseconds.
const STARTS_WITHIN: i64 = 10_000_000;
const TRIES_AGAIN_AFTER: i64 = 1_000_000;

/// After how many decisions to look for a place again, if all were taken.
const PATIENCE: u32 = 10_000;

thread_local! {
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    static IMPATIENCE: Cell<u32> = const { Cell::new(0) };
}

/// The queue and this database's place in it, if it has found one.
pub fn place() -> Option<(&'static Queue, usize)> {
    Some((queue()?, PLACE.get()?))
}

/// The same. It looks for a place if the session has not found one. It may fail, so it is not called
/// when a transaction ends.
#[inline]
pub fn find_place() -> Option<(&'static Queue, usize)> {
    let queue = queue()?;
    if let Some(place) = PLACE.get() {
        // Records of a dropped database take room until a session frees it.
        if queue.is_full() {
            forget_dropped_databases(queue);
        }
        return Some((queue, place));
    }
    if IMPATIENCE.get() > 0 {
        IMPATIENCE.set(IMPATIENCE.get() - 1);
        return None;
    }
    let oid = server::my_database().to_u32();
    let mut place = queue.place_of(oid);
    if place.is_none() {
        forget_dropped_databases(queue);
        place = queue.place_of(oid);
    }
    if let Some(place) = place {
        losses::prepare(queue, place, oid);
    }
    PLACE.set(place);
    if place.is_none() {
        IMPATIENCE.set(PATIENCE);
    }
    Some((queue, place?))
}

/// Frees the places of dropped databases, and what waits there. No session is connected to them.
pub fn forget_dropped_databases(queue: &Queue) {
    for oid in queue.databases() {
        if !server::has_database(oid.into()) {
            queue.forget(oid);
            losses::forget_database(oid);
        }
    }
}

/// Has a worker started, which makes events that no act makes. It stays while keys will end, unless other
/// databases need its process. Without it, `maintain` makes them.
pub fn want() {
    if let Some((queue, place)) = find_place() {
        ensure(queue, place);
    }
}

/// Makes sure that there is a worker, or that one will start.
#[inline]
pub fn ensure(queue: &Queue, place: usize) {
    if queue.signals.get(place).is_some_and(|signals| signals.worker.load(SeqCst) != RUNNING) {
        ask_for_worker(queue, place);
    }
}

/// Has the worker stay for a record that comes later, until `release` of this place.
pub fn retain(queue: &Queue, place: usize) -> Option<usize> {
    queue.signals.get(place)?.pending.fetch_add(1, SeqCst);
    Some(place)
}

pub fn release(place: usize) {
    if let Some(signals) = queue().and_then(|queue| queue.signals.get(place)) {
        signals.pending.fetch_sub(1, SeqCst);
    }
}

/// Wakes the worker, or asks for one.
pub fn call(queue: &Queue, place: usize) {
    ensure(queue, place);
    let latch = queue.with(place, |database| database.worker.latch);
    latch.unwrap_or(Latch::NONE).set();
}

#[cold]
fn ask_for_worker(queue: &Queue, place: usize) {
    let now = monotonic();
    let Some(signals) = queue.signals.get(place) else { return };
    if server::is_binary_upgrade() {
        return;
    }
    let is_mine = queue.with(place, |database| {
        let is_due = match signals.worker.load(SeqCst) {
            ABSENT => now >= database.worker.since,
            STARTING => now >= database.worker.since + STARTS_WITHIN,
            _ => false,
        };
        if is_due {
            signals.worker.store(STARTING, SeqCst);
            database.worker.since = now;
        }
        is_due
    });
    if is_mine == Some(true) && !register() {
        queue.starved_at.store(now, SeqCst);
        queue.with(place, |database| {
            database.counters.failed_starts += 1;
            database.worker.since = now + TRIES_AGAIN_AFTER;
            signals.worker.store(ABSENT, SeqCst);
        });
    }
}

/// Has the postmaster start a worker for this database. False if there is no process for it.
pub fn register() -> bool {
    const WORKER: Kind = Kind { name: c"keysmith usage worker", entry: c"keysmith_usage_worker" };
    WORKER.start(Datum::from(server::my_database()))
}

/// Requests that a backend without shared memory could not record.
pub static LOST_HERE: AtomicU64 = AtomicU64::new(0);

/// Counts a record that is lost.
pub fn drop_record() {
    match place() {
        None => {
            LOST_HERE.fetch_add(1, Relaxed);
        }
        Some((queue, place)) => {
            let now = clock::now();
            queue.count(place, |counters| {
                counters.dropped += 1;
                counters.last_dropped_at = now;
            });
        }
    }
}
