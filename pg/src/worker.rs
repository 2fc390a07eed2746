//! Background workers: how they are asked for, begin, and attend to signals.

use crate::{major, server};
use pgrx::pg_sys::{self, BackgroundWorker, BgWorkerStartTime, Datum, Oid};
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

/// A kind of worker: its name for people, and the function that it begins with.
pub struct Kind {
    pub name: &'static CStr,
    pub entry: &'static CStr,
}

impl Kind {
    fn worker(&self, start: BgWorkerStartTime::Type) -> BackgroundWorker {
        let mut worker = BackgroundWorker {
            bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS
                | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
            bgw_start_time: start,
            ..Default::default()
        };
        fill(&mut worker.bgw_name, self.name);
        fill(&mut worker.bgw_type, self.name);
        fill(&mut worker.bgw_library_name, c"$libdir/keysmith");
        fill(&mut worker.bgw_function_name, self.entry);
        worker
    }

    /// Has the postmaster start one with the server, or when a standby is promoted, and
    /// another after it has failed. Only while the library is preloaded.
    pub fn start_with_server(&self) {
        let mut worker = self.worker(BgWorkerStartTime::BgWorkerStart_RecoveryFinished);
        worker.bgw_restart_time = 1;
        // SAFETY: the postmaster copies the structure.
        unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
    }

    /// Has the postmaster start one now. False where it has no more room for workers.
    pub fn start(&self, argument: Datum) -> bool {
        // On a standby recovery may never finish.
        let start = if server::is_in_recovery() {
            BgWorkerStartTime::BgWorkerStart_ConsistentState
        } else {
            BgWorkerStartTime::BgWorkerStart_RecoveryFinished
        };
        let mut worker = self.worker(start);
        // BGW_NEVER_RESTART: whoever needs one asks again.
        worker.bgw_restart_time = -1;
        worker.bgw_main_arg = argument;
        // SAFETY: the structure is copied; no handle is asked for.
        unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, null_mut()) }
    }
}

fn fill(place: &mut [c_char], text: &CStr) {
    for (place, byte) in place.iter_mut().zip(text.to_bytes_with_nul()) {
        *place = *byte as c_char;
    }
}

/// Declares the function that workers begin with: `sql_symbol => path::to::function`, which
/// takes the argument that it was started with. An error ends the process.
#[macro_export]
macro_rules! worker_entry {
    ($symbol:ident => $function:path) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(argument: pgrx::pg_sys::Datum) {
            // SAFETY: nothing else is on this frame.
            unsafe { pgrx::pg_sys::panic::pgrx_extern_c_guard(|| $function(argument)) }
        }
    };
}
pub use worker_entry;

/// What a worker does first: it takes signals, and connects to a database, or to none. A
/// worker that is told to end also breaks off what it is at.
pub fn begin(database: Option<Oid>) {
    // SAFETY: what background workers do first, in this order.
    unsafe {
        major::handle_signal(pg_sys::SIGTERM, on_sigterm);
        major::handle_signal(pg_sys::SIGHUP, on_sighup);
        pg_sys::BackgroundWorkerUnblockSignals();
        match database {
            Some(database) => pg_sys::BackgroundWorkerInitializeConnectionByOid(
                database,
                Oid::INVALID,
                pg_sys::BGWORKER_BYPASS_ALLOWCONN,
            ),
            None => pg_sys::BackgroundWorkerInitializeConnection(null(), null(), 0),
        }
    }
}

unsafe extern "C-unwind" fn on_sigterm(_signal: c_int) {
    // SAFETY: flags for signal handlers, and the process's own latch.
    unsafe {
        pg_sys::ShutdownRequestPending = 1;
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

unsafe extern "C-unwind" fn on_sighup(_signal: c_int) {
    // SAFETY: a flag for signal handlers, and the process's own latch.
    unsafe {
        pg_sys::ConfigReloadPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// Attends to interrupts and changed settings.
pub fn attend() {
    let attended = pgrx::PgTryBuilder::new(|| {
        pgrx::check_for_interrupts!();
        // SAFETY: set by the signal's handler.
        unsafe {
            if pg_sys::ConfigReloadPending != 0 {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
        }
    });
    // A cancellation that finds nothing to cancel.
    attended.catch_others(|_| ()).execute();
}

/// Whether the worker was told to end.
pub fn shutdown_requested() -> bool {
    // SAFETY: set by the signal's handler.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// What was to be cancelled has been: what comes now is not.
pub fn forget_cancellation() {
    // SAFETY: a flag that the signal's handler sets.
    unsafe { pg_sys::QueryCancelPending = 0 };
}

/// What databases and roles are set to must not change how a worker works.
pub fn set_for_good(name: &CStr, value: &CStr) {
    // SAFETY: C strings, which are copied; in a process of the extension's.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Commits a transaction of its own, which is on disk here when it returns. No standby is
/// waited for.
pub fn commit_something() {
    // SAFETY: what workers do for a transaction; the commit of one that has a number is
    // written to the log, with its time.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTopTransactionId();
        pg_sys::ForceSyncCommit();
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
    }
}
