//! The worker as a process: how it begins, what it is told, and how it ends.

use crate::usage::queue::ring::Ring;
use crate::usage::session::worker_slot::{ABSENT, RUNNING};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;

/// How often to see whether someone wants the database for himself, in microseconds.
pub const LOOKS_AROUND: i64 = 500_000;
/// Requests without a known key are stored less often: a flood of them costs little.
pub const STORES_UNKNOWN: i64 = 5_000_000;

/// Whether someone drops, renames or copies the database, which takes a lock that
/// excludes those who connect, and waits a few seconds for all others to go.
pub fn database_is_wanted() -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        // SAFETY: set for as long as the process lives.
        locktag_field3: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the lock of a session, which needs no transaction; given back at once.
    unsafe {
        let taken = pg_sys::LockAcquire(&tag, mode, true, true);
        if taken == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, true);
    }
    false
}

pub use pg::worker::{attend, shutdown_requested};

/// What the postmaster has written of its state, in the line that `pg_ctl` reads. A
/// worker alone that was told to end doesn't wait for others.
pub fn server_is_stopping() -> bool {
    const STATUS_LINE: usize = 7;
    // SAFETY: set when the server started.
    let directory = unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned();
    let file = std::fs::read_to_string(format!("{directory}/postmaster.pid"));
    file.is_ok_and(|file| {
        file.lines().nth(STATUS_LINE).is_some_and(|line| line.trim() == "stopping")
    })
}

/// Gives the place up, unless something came in the meantime.
pub fn step_down(ring: &Ring, place: usize) -> bool {
    let Some(signals) = ring.signals.get(place) else { return true };
    let has_left = ring.with(place, |database| {
        signals.worker.store(ABSENT, SeqCst);
        let is_idle = database.count == 0
            && database.unknown.is_empty()
            && database.worker.wanted.is_empty()
            && signals.held.load(SeqCst) == 0;
        if is_idle {
            database.worker.pid = 0;
            database.worker.latch = null_mut();
            database.worker.since = 0;
        } else {
            signals.worker.store(RUNNING, SeqCst);
        }
        is_idle
    });
    has_left.unwrap_or(true)
}
