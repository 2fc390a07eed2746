//! What a process knows of its server and of itself.

use crate::{direct, text, transaction};
use pgrx::pg_sys::{self, DBState, Oid};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Whether the process takes part in shared memory, as backends and workers do, and the postmaster
/// does not. It does until it ends.
#[inline]
pub fn is_attached() -> bool {
    // SAFETY: reads a pointer that is null until the process takes its place among the others.
    !unsafe { pg_sys::MyProc }.is_null()
}

/// Whether the server is a standby, or replays its log after a crash. True in a process that does
/// not take part in shared memory: it can't write either.
#[inline]
pub fn is_in_recovery() -> bool {
    // SAFETY: the function reads shared memory, which is there.
    !is_attached() || unsafe { direct::RecoveryInProgress() }
}

/// When the newest commit that this server has replayed was made; 0 if it has replayed none.
pub fn latest_replayed_commit() -> i64 {
    // SAFETY: as above.
    if is_attached() { unsafe { direct::GetLatestXTime() } } else { 0 }
}

pub fn my_pid() -> i32 {
    // SAFETY: reads a number of the process.
    unsafe { pg_sys::MyProcPid }
}

/// The user of the operating system as whom the process runs.
pub fn effective_user() -> u32 {
    // SAFETY: asks the operating system, and always succeeds.
    unsafe { libc::geteuid() }
}

/// The database of the session; 0 in a process that is connected to none.
#[inline]
pub fn my_database() -> Oid {
    // SAFETY: reads a number of the process.
    unsafe { pg_sys::MyDatabaseId }
}

/// The name of that database. In a transaction.
pub fn my_database_name() -> String {
    transaction::must_be_in_progress();
    // SAFETY: a look-up in a catalog, inside a transaction. It gives null or a C string.
    text::lossy(unsafe { bytes(pg_sys::get_database_name(pg_sys::MyDatabaseId)) })
}

/// Whether there is such a database. In a transaction.
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
    // SAFETY: counts entries of shared memory, which is there.
    if is_attached() { unsafe { pg_sys::CountDBBackends(pg_sys::MyDatabaseId) } } else { 0 }
}

/// How many backends there can be.
pub fn max_backends() -> i32 {
    // SAFETY: reads a number that is set when the server starts.
    unsafe { pg_sys::MaxBackends }
}

pub fn port() -> i32 {
    // SAFETY: reads a setting of the server's.
    unsafe { pg_sys::PostPortNumber }
}

/// The number by which a server and its standbys are known.
pub fn system_identifier() -> u64 {
    // SAFETY: the control file is read before any library is loaded.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Whether `pg_upgrade` has started the server.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: reads a flag of the process.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Where the server keeps its files.
pub fn data_directory() -> PathBuf {
    // SAFETY: set before any library is loaded, and not changed.
    PathBuf::from(OsStr::from_bytes(unsafe { bytes(pg_sys::DataDir) }))
}

/// The name of the machine; empty where it has none.
pub fn host_name() -> String {
    let mut name = [0 as c_char; 256];
    // SAFETY: the room is as long as is said, and its last byte stays 0.
    unsafe {
        libc::gethostname(name.as_mut_ptr(), name.len() - 1);
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    }
}

/// The setting `cluster_name`.
pub fn cluster_name() -> String {
    // SAFETY: a setting of the server's, copied before it can change.
    text::lossy(unsafe { bytes(pg_sys::cluster_name) })
}

/// The setting `primary_conninfo`.
pub fn primary_conninfo() -> String {
    // SAFETY: as above.
    String::from_utf8_lossy(unsafe { bytes(pg_sys::PrimaryConnInfo) }).into_owned()
}

/// Whether that setting has a value.
#[inline]
pub fn has_primary_conninfo() -> bool {
    // SAFETY: as above; null, or at least the 0 at its end.
    unsafe { pg_sys::PrimaryConnInfo.as_ref() }.is_some_and(|first| *first != 0)
}

/// Whether the control file says that the server was shut down.
pub fn was_shut_down() -> bool {
    let mut is_intact = false;
    // SAFETY: reads the file of the server's directory into memory of its own.
    let state = unsafe {
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_intact);
        let state = (*control).state;
        pg_sys::pfree(control.cast());
        state
    };
    is_intact && matches!(state, DBState::DB_SHUTDOWNED | DBState::DB_SHUTDOWNED_IN_RECOVERY)
}

/// Whether texts of the database are UTF-8.
#[inline]
pub fn encoding_is_utf8() -> bool {
    // SAFETY: reads a number of the process.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as c_int }
}

/// # Safety
/// Null, or a C string that stays as it is for as long as the result is used.
unsafe fn bytes<'a>(string: *const c_char) -> &'a [u8] {
    // SAFETY: as the caller promises.
    if string.is_null() { &[] } else { unsafe { CStr::from_ptr(string) }.to_bytes() }
}
