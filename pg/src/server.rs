//! Facts about the server and about this process.

use crate::{direct, major, text, transaction};
use pgrx::pg_sys::{self, DBState, Oid};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Whether the process has a PGPROC in shared memory, as backends and workers do until they end.
/// The postmaster does not.
#[inline]
pub fn is_attached() -> bool {
    // SAFETY: reads a pointer, which is null until the process has a PGPROC.
    !unsafe { pg_sys::MyProc }.is_null()
}

/// Whether this process is the postmaster, which starts the others.
pub fn is_postmaster() -> bool {
    // SAFETY: reads two flags, which are set when the process starts.
    unsafe { pg_sys::IsPostmasterEnvironment && !pg_sys::IsUnderPostmaster }
}

/// Whether the server is in recovery: it is a standby, or replays WAL after a crash. Also true in a
/// process that is not attached, since it can't write either.
#[inline]
pub fn is_in_recovery() -> bool {
    // SAFETY: the process is attached to the shared memory that the function reads.
    !is_attached() || unsafe { direct::RecoveryInProgress() }
}

/// The time of the newest commit that this server has replayed; 0 if it has not replayed any.
pub fn latest_replayed_commit() -> i64 {
    // SAFETY: as above.
    if is_attached() { unsafe { direct::GetLatestXTime() } } else { 0 }
}

/// The number of this process among those that have a PGPROC: processes of the same time have
/// different numbers, and small ones if they are few.
pub fn my_number() -> usize {
    if !is_attached() {
        return 0;
    }
    // SAFETY: the process has a PGPROC, which is an element of this array.
    unsafe {
        (pg_sys::MyProc as usize - (*pg_sys::ProcGlobal).allProcs as usize)
            / size_of::<pg_sys::PGPROC>()
    }
}

/// The greatest number of processes that can run queries. Their numbers are smaller.
pub fn most_processes() -> usize {
    // SAFETY: reads a variable that is set before shared memory is requested.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// The virtual id of the transaction that the process with this number runs; 0 if it runs none, or
/// can't run any.
#[inline]
pub fn transaction_of(process: usize) -> u64 {
    if !is_attached() || process >= most_processes() {
        return 0;
    }
    // SAFETY: this process has a PGPROC, and there are so many.
    unsafe { major::virtual_transaction_of(process) }
}

pub fn my_pid() -> i32 {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::MyProcPid }
}

/// Whether a process of the server has this id, and can run transactions.
pub fn has_process(pid: i32) -> bool {
    // SAFETY: the process is attached to the shared memory that the function reads.
    is_attached() && !unsafe { pg_sys::BackendPidGetProc(pid) }.is_null()
}

/// Whether this process applies changes that come by logical replication.
pub fn applies_changes() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::IsLogicalWorker() }
}

/// The operating system's id of the user that runs the process.
pub fn effective_user() -> u32 {
    // SAFETY: a system call that always succeeds.
    unsafe { libc::geteuid() }
}

/// The session's database; 0 in a process that is not connected to a database.
#[inline]
pub fn my_database() -> Oid {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::MyDatabaseId }
}

/// The name of the session's database. Needs a transaction.
pub fn my_database_name() -> String {
    transaction::must_be_in_progress();
    // SAFETY: a look-up in a catalog, inside a transaction. It returns null or a C string.
    text::lossy(unsafe { bytes(pg_sys::get_database_name(pg_sys::MyDatabaseId)) })
}

/// Whether the database exists. Needs a transaction.
pub fn has_database(database: Oid) -> bool {
    transaction::must_be_in_progress();
    // SAFETY: a look-up in the cache of databases, inside a transaction.
    unsafe {
        pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::DATABASEOID as i32,
            pg_sys::Datum::from(database),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        )
    }
}

/// How many processes are connected to the database of the session, this one included.
pub fn backends_of_my_database() -> i32 {
    // SAFETY: the process is attached to the shared memory that the function reads.
    if is_attached() { unsafe { pg_sys::CountDBBackends(pg_sys::MyDatabaseId) } } else { 0 }
}

/// How many backends there can be.
pub fn max_backends() -> i32 {
    // SAFETY: reads a variable that is set when the server starts.
    unsafe { pg_sys::MaxBackends }
}

pub fn port() -> i32 {
    // SAFETY: reads a setting of the server.
    unsafe { pg_sys::PostPortNumber }
}

/// The system identifier, which a server shares with its standbys.
pub fn system_identifier() -> u64 {
    // SAFETY: the control file is read before any library is loaded.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Whether `pg_upgrade` has started the server.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// The data directory.
pub fn data_directory() -> PathBuf {
    // SAFETY: set before any library is loaded, and not changed.
    PathBuf::from(OsStr::from_bytes(unsafe { bytes(pg_sys::DataDir) }))
}

/// The host name; empty if the machine has no name.
pub fn host_name() -> String {
    let mut name = [0 as c_char; 256];
    // SAFETY: the buffer has the given length, and its last byte stays 0.
    unsafe {
        libc::gethostname(name.as_mut_ptr(), name.len() - 1);
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    }
}

/// The setting `cluster_name`.
pub fn cluster_name() -> String {
    // SAFETY: a setting of the server, copied before it can change.
    text::lossy(unsafe { bytes(pg_sys::cluster_name) })
}

/// The setting `primary_conninfo`.
pub fn primary_conninfo() -> String {
    // SAFETY: as above.
    String::from_utf8_lossy(unsafe { bytes(pg_sys::PrimaryConnInfo) }).into_owned()
}

/// The timeline on which this server writes. To be called after recovery.
pub fn insertion_timeline() -> u32 {
    assert!(!is_in_recovery(), "there is no timeline to write on");
    // SAFETY: reads shared memory, to which the process is attached; recovery has ended for good.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

/// The size of a WAL file, and that of a page in it.
pub fn wal_sizes() -> (u64, u64) {
    // SAFETY: a variable that is set before any library is loaded, and not changed.
    let segment = unsafe { pg_sys::wal_segment_size };
    (u64::from(segment.unsigned_abs()), u64::from(pg_sys::XLOG_BLCKSZ))
}

/// Whether the control file says that the server was shut down.
pub fn was_shut_down() -> bool {
    let mut is_intact = false;
    // SAFETY: reads the control file into newly allocated memory, which is freed after use.
    let state = unsafe {
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_intact);
        let state = (*control).state;
        pg_sys::pfree(control.cast());
        state
    };
    is_intact && matches!(state, DBState::DB_SHUTDOWNED | DBState::DB_SHUTDOWNED_IN_RECOVERY)
}

/// Whether the database's encoding is UTF-8.
#[inline]
pub fn encoding_is_utf8() -> bool {
    // SAFETY: reads a variable of the process.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as c_int }
}

/// # Safety
/// The pointer must be null, or a C string that does not change during `'a`.
unsafe fn bytes<'a>(string: *const c_char) -> &'a [u8] {
    // SAFETY: as the caller promises.
    if string.is_null() { &[] } else { unsafe { CStr::from_ptr(string) }.to_bytes() }
}
