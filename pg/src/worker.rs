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
        fill(&mut worker.bgw_library_name, c"keysmith");
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
        self.register(argument, null_mut())
    }

    /// The same; the result tells when the worker has ended.
    pub fn start_watched(&self, argument: Datum) -> Option<Started> {
        let mut handle = null_mut();
        // SAFETY: the handle is allocated in a context that lives as long as the process.
        let is_registered = unsafe {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let is_registered = self.register(argument, &mut handle);
            pg_sys::MemoryContextSwitchTo(context);
            is_registered
        };
        // Otherwise there is no handle, and so nothing to drop.
        is_registered.then(|| Started(handle))
    }

    fn register(&self, argument: Datum, handle: *mut *mut pg_sys::BackgroundWorkerHandle) -> bool {
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
        // SAFETY: the structure is copied. The handle is null, or a place for a pointer.
        unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, handle) }
    }
}

/// A worker that was started, and may have ended.
pub struct Started(*mut pg_sys::BackgroundWorkerHandle);

impl Started {
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is valid until it is dropped.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
            || status == pg_sys::BgwHandleStatus::BGWH_POSTMASTER_DIED
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: allocated by PostgreSQL for this owner.
        unsafe { pg_sys::pfree(self.0.cast()) };
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

/// Whether this process is a background worker.
pub fn is_one() -> bool {
    // SAFETY: reads a pointer that is set in background workers.
    unsafe { !pg_sys::MyBgworkerEntry.is_null() }
}

/// Whether the worker has received SIGTERM.
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag that the signal handler sets.
    unsafe { pg_sys::ShutdownRequestPending != 0 }
}

/// Ends the process so that the postmaster starts the worker again, unless the server stops. After a
/// return from its main function, it would not.
pub fn end_for_now() {
    // SAFETY: the worker's frames need no dropping: the process ends.
    unsafe { pg_sys::proc_exit(1) };
}

/// Clears a pending cancellation, so that it does not cancel the next statement.
pub fn forget_cancellation() {
    // SAFETY: a flag that the signal handler sets.
    unsafe { pg_sys::QueryCancelPending = 0 };
}

/// Changes a setting for the life of the process. The settings of databases and roles can't
/// override it.
fn set_for_good(name: &CStr, value: &CStr) {
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

/// Keeps freed memory for the next transaction. By default the C library gives large pieces back to
/// the kernel, which clears each page when it is used again.
pub fn keep_freed_memory() {
    /// The largest piece that the C library ever takes from memory that it keeps, and how much of
    /// that may be free at its end.
    #[cfg(target_env = "gnu")]
    const MOST: c_int = 32 * 1024 * 1024;
    #[cfg(target_env = "gnu")]
    // SAFETY: both parameters concern the memory of this process alone.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MOST);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MOST * 2);
    }
}

/// Settings of databases and roles must not change how a worker works.
pub fn be_independent() {
    const SETTINGS: [(&CStr, &CStr); 12] = [
        (c"role", c"none"),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"session_replication_role", c"origin"),
        (c"row_security", c"on"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"exit_on_error", c"off"),
        // A session that waits for the worker must not wait long because the worker waits too.
        (c"lock_timeout", c"2s"),
        // The compiler's libraries would take more memory than the rest of the worker.
        (c"jit", c"off"),
        // Records leave the queue when they are stored, so they must be on disk. Standbys may lag.
        (c"synchronous_commit", c"local"),
    ];
    for (name, value) in SETTINGS.into_iter().chain(major::TIMEOUTS) {
        set_for_good(name, value);
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
