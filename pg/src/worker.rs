//! Background workers: how they are started, and how they handle signals.

use crate::settings::set_local;
use crate::{major, server};
use pgrx::pg_sys::{self, BackgroundWorker, BgWorkerStartTime, Datum, Oid};
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

/// A kind of worker: its displayed name, and the symbol of its main function.
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

    /// Has the postmaster start a worker with the server, or when a standby is promoted, and again
    /// after a failure. Only while the library is preloaded.
    pub fn start_with_server(&self) {
        let mut worker = self.worker(BgWorkerStartTime::BgWorkerStart_RecoveryFinished);
        worker.bgw_restart_time = 1;
        // SAFETY: the postmaster copies the structure.
        unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
    }

    /// Has the postmaster start a worker now. False if there is no free slot for a worker.
    pub fn start(&self, argument: Datum) -> bool {
        // On a standby recovery may never finish.
        let start = if server::is_in_recovery() {
            BgWorkerStartTime::BgWorkerStart_ConsistentState
        } else {
            BgWorkerStartTime::BgWorkerStart_RecoveryFinished
        };
        let mut worker = self.worker(start);
        // BGW_NEVER_RESTART: a session that needs a worker asks again.
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

/// Declares the main function of a worker: `sql_symbol => path::to::function`. It takes the
/// worker's argument. An error ends the process.
#[macro_export]
macro_rules! worker_entry {
    ($symbol:ident => $function:path) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(argument: pgrx::pg_sys::Datum) {
            // SAFETY: this frame holds nothing that needs dropping.
            unsafe { pgrx::pg_sys::panic::pgrx_extern_c_guard(|| $function(argument)) }
        }
    };
}
pub use worker_entry;

/// Installs the signal handlers of a worker, and connects it to a database, or to none. SIGTERM
/// also cancels the statement that is running.
pub fn begin(database: Option<Oid>) {
    // SAFETY: the calls with which background workers begin, in the same order.
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

/// Processes interrupts, and reads the configuration again after a SIGHUP.
pub fn attend() {
    let attended = pgrx::PgTryBuilder::new(|| {
        pgrx::check_for_interrupts!();
        // SAFETY: a flag that the signal handler sets.
        unsafe {
            if pg_sys::ConfigReloadPending != 0 {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
        }
    });
    // The error is a cancellation that came when no statement was running.
    attended.catch_others(|_| ()).execute();
}

/// Whether the worker has received SIGTERM.
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag that the signal handler sets.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// Clears a pending cancellation, so that it does not cancel the next statement.
pub fn forget_cancellation() {
    // SAFETY: a flag that the signal handler sets.
    unsafe { pg_sys::QueryCancelPending = 0 };
}

/// Changes a setting for the life of the process. The settings of databases and roles can't
/// override it.
pub fn set_for_good(name: &CStr, value: &CStr) {
    // SAFETY: both are C strings, which are copied. The process is a worker of the extension.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Commits a new transaction, and returns when the commit is on the local disk. It waits for no
/// standby.
pub fn commit_something() {
    // SAFETY: the calls with which a worker runs a transaction. Since the transaction has an id,
    // its commit is written to WAL, with its time.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTopTransactionId();
        pg_sys::ForceSyncCommit();
        set_local(c"synchronous_commit", c"local");
        pg_sys::CommitTransactionCommand();
    }
}
