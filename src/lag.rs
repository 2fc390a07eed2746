//! The lag guard: a standby that has fallen behind refuses, since what it would let in
//! may have been revoked meanwhile.
//!
//! A standby knows when the newest commit that it has replayed was made: all that was
//! committed before is replayed too. An idle primary commits nothing, so one with the
//! guard has a worker that does, a transaction without rows at each beat. The beat is
//! the server's and not a database's: one serves all of them, and no table grows.

use crate::usage::session::worker_slot::name as worker_name;
use pg::{direct, major};
use pgrx::pg_sys::{self, Datum};
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// In ms; 0 is off, which is the default: the guard takes the primary's help, and
/// clocks that agree, and turns a standby's delay into refusals.
static MOST: AtomicI32 = AtomicI32::new(0);

/// Beats in the time that a standby may lag: some may be late.
const BEATS: i32 = 5;
const SHORTEST_BEAT: i32 = 50;
const LONGEST_BEAT: i32 = 10_000;

/// To be called from `_PG_init`, while the library is preloaded and not otherwise: the
/// worker starts with the server.
pub fn install() {
    // SAFETY: called from _PG_init; all that is pointed to is static.
    unsafe {
        pg_sys::DefineCustomIntVariable(
            c"keysmith.max_replica_lag".as_ptr(),
            c"How old what a standby has replayed may be before it refuses all keys.".as_ptr(),
            c"0 lets it answer however old that is. To be set on the primary too, which then \
              commits something now and then."
                .as_ptr(),
            MOST.as_ptr(),
            0,
            0,
            24 * 3600 * 1000,
            pg_sys::GucContext::PGC_POSTMASTER,
            pg_sys::GUC_UNIT_MS as i32,
            None,
            None,
            None,
        );
    }
    if MOST.load(Relaxed) == 0 {
        return;
    }
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as i32,
        // On a standby, when it is promoted.
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: 1,
        ..Default::default()
    };
    worker_name(&mut worker, c"keysmith heartbeat", c"keysmith_heartbeat");
    // SAFETY: the postmaster copies the structure.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// Whether a standby that has fallen behind must not answer.
#[inline]
pub fn is_guarded() -> bool {
    MOST.load(Relaxed) != 0
}

/// Whether this is such a standby.
#[inline]
pub fn is_behind(now: i64) -> bool {
    let most = MOST.load(Relaxed);
    most != 0 && is_older(i64::from(most) * 1000, now)
}

#[cold]
fn is_older(most: i64, now: i64) -> bool {
    // SAFETY: both read the server's state. Without a commit since the start there is
    // no time, which is 0: long ago.
    unsafe { direct::RecoveryInProgress() && now.saturating_sub(recovery::GetLatestXTime()) > most }
}

/// Without pgrx's care for errors: it raises none, and is called for each decision.
mod recovery {
    unsafe extern "C-unwind" {
        pub fn GetLatestXTime() -> i64;
    }
}

unsafe extern "C-unwind" fn on_sigterm(_signal: c_int) {
    // SAFETY: a flag for signal handlers, and our own latch.
    unsafe {
        pg_sys::ShutdownRequestPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// The entry of the worker.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn keysmith_heartbeat(_argument: Datum) {
    // SAFETY: nothing else is on this frame; an error ends the process, and the
    // postmaster starts another.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(beat) }
}

fn beat() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let pause = (MOST.load(Relaxed) / BEATS).clamp(SHORTEST_BEAT, LONGEST_BEAT);
    // SAFETY: what background workers do; the commit of a transaction that has a number
    // is written to the log, with its time.
    unsafe {
        major::handle_signal(pg_sys::SIGTERM, on_sigterm);
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        while pg_sys::ShutdownRequestPending == 0 {
            pg_sys::StartTransactionCommand();
            pg_sys::GetTopTransactionId();
            pg_sys::ForceSyncCommit();
            // A standby that is waited for may be the one that lags.
            pg_sys::set_config_option(
                c"synchronous_commit".as_ptr(),
                c"local".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_LOCAL,
                true,
                0,
                false,
            );
            pg_sys::CommitTransactionCommand();
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                events as c_int,
                i64::from(pause),
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            pgrx::check_for_interrupts!();
        }
    }
}
