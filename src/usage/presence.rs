//! This database's place in the ring, and its worker's presence.

use super::ring::{Ring, ring};
use super::traces;
use crate::clock::monotonic;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::sync::atomic::Ordering::SeqCst;

/// There is no worker; one was asked for; it is there.
pub const ABSENT: u32 = 0;
pub const STARTING: u32 = 1;
pub const RUNNING: u32 = 2;

/// How long a worker may take to start before another is asked for, and how long to
/// wait where none could be had. In microseconds.
const STARTS_WITHIN: i64 = 10_000_000;
const TRIES_AGAIN_AFTER: i64 = 1_000_000;

/// After how many decisions a place is looked for again, where all were taken.
const PATIENCE: u32 = 10_000;

thread_local! {
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    static IMPATIENCE: Cell<u32> = const { Cell::new(0) };
}

/// The ring and this database's place in it, if it has found one.
pub fn place() -> Option<(&'static Ring, usize)> {
    Some((ring()?, PLACE.get()?))
}

/// The same, for moments at which a place can be looked for.
#[inline]
pub fn find_place() -> Option<(&'static Ring, usize)> {
    let ring = ring()?;
    if let Some(place) = PLACE.get() {
        // What waits for a dropped database is in the way until somebody looks.
        if ring.is_full() {
            forget_dropped_databases(ring);
        }
        return Some((ring, place));
    }
    if IMPATIENCE.get() > 0 {
        IMPATIENCE.set(IMPATIENCE.get() - 1);
        return None;
    }
    // SAFETY: set for as long as the backend lives.
    let oid = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let mut place = ring.place_of(oid);
    if place.is_none() {
        forget_dropped_databases(ring);
        place = ring.place_of(oid);
    }
    if let Some(place) = place {
        traces::leave(ring, place, oid);
    }
    PLACE.set(place);
    if place.is_none() {
        IMPATIENCE.set(PATIENCE);
    }
    Some((ring, place?))
}

/// Frees the places of databases that are no more, and what waits there. Nobody is connected
/// to them, and nobody will be.
pub fn forget_dropped_databases(ring: &Ring) {
    for oid in ring.databases() {
        // SAFETY: a look-up in the cache of databases, inside a transaction.
        let exists = unsafe {
            pg_sys::SearchSysCacheExists(
                pg_sys::SysCacheIdentifier::DATABASEOID as i32,
                pg_sys::Datum::from(oid),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
            )
        };
        if !exists {
            ring.forget(oid);
            traces::forget_database(oid);
        }
    }
}

/// Sees to it that there is a worker, or that there will be one.
#[inline]
pub fn ensure(ring: &Ring, place: usize) {
    if ring.signals.get(place).is_some_and(|signals| signals.worker.load(SeqCst) != RUNNING) {
        ask_for_worker(ring, place);
    }
}

/// Wakes the worker, or asks for one.
pub fn call(ring: &Ring, place: usize) {
    ensure(ring, place);
    let latch = ring.with(place, |database| database.worker.latch);
    if let Some(latch) = latch.filter(|latch| !latch.is_null()) {
        // SAFETY: a latch of shared memory, as in `Ring::push`.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

#[cold]
fn ask_for_worker(ring: &Ring, place: usize) {
    let now = monotonic();
    let Some(signals) = ring.signals.get(place) else { return };
    // SAFETY: asks for the server's state.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    let is_mine = ring.with(place, |database| {
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
    // SAFETY: as above.
    let oid = unsafe { pg_sys::MyDatabaseId };
    if is_mine == Some(true) && !register(oid) {
        ring.starved_at.store(now, SeqCst);
        ring.with(place, |database| {
            database.counters.failed_starts += 1;
            database.worker.since = now + TRIES_AGAIN_AFTER;
            signals.worker.store(ABSENT, SeqCst);
        });
    }
}

/// Has the postmaster start a worker for a database. False where it has no more room
/// for workers.
pub fn register(database: pg_sys::Oid) -> bool {
    // SAFETY: asks for the server's state. On a standby recovery may never finish.
    let start = if unsafe { pg_sys::RecoveryInProgress() } {
        pg_sys::BgWorkerStartTime::BgWorkerStart_ConsistentState
    } else {
        pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished
    };
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as i32,
        bgw_start_time: start,
        // BGW_NEVER_RESTART: the next event asks for a new one.
        bgw_restart_time: -1,
        bgw_main_arg: pg_sys::Datum::from(database),
        ..Default::default()
    };
    name(&mut worker, c"keysmith usage worker", c"keysmith_usage_worker");
    // SAFETY: the structure is copied; no handle is asked for.
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) }
}

/// What a worker of ours is called, and where it begins.
pub fn name(worker: &mut pg_sys::BackgroundWorker, name: &CStr, entry: &CStr) {
    fill(&mut worker.bgw_name, name);
    fill(&mut worker.bgw_type, name);
    fill(&mut worker.bgw_library_name, c"$libdir/keysmith");
    fill(&mut worker.bgw_function_name, entry);
}

fn fill(place: &mut [c_char], text: &CStr) {
    for (place, byte) in place.iter_mut().zip(text.to_bytes_with_nul()) {
        *place = *byte as c_char;
    }
}
