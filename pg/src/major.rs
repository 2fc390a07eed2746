//! Differences between PostgreSQL's major versions. No other file depends on the version.

use crate::column::{self, Column};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

/// How many transactions that may have changed something have ended: the server's
/// xactCompletionCount.
///
/// # Safety
/// The process must be attached to shared memory, as those are that run functions or workers.
#[inline]
pub unsafe fn completed_transactions() -> u64 {
    // 17 gave the structure another name.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    use pg_sys::ShmemVariableCache as variables;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    use pg_sys::TransamVariables as variables;
    // SAFETY: as the caller promises. Other processes change the count at any time, so the read is
    // volatile.
    unsafe { std::ptr::read_volatile(&raw const (*variables).xactCompletionCount) }
}

/// The columns of pg_auth_members that name the member and the role. 16 added a column `oid` before
/// them.
pub const MEMBERSHIP_ROLE: Column<column::Oid> =
    Column::new(if cfg!(feature = "pg15") { 1 } else { 2 });
pub const MEMBERSHIP_MEMBER: Column<column::Oid> = Column::new(MEMBERSHIP_ROLE.number() + 1);

/// The local id (lxid) of the transaction in progress.
///
/// # Safety
/// A transaction must be in progress.
pub unsafe fn local_transaction_id() -> u32 {
    // SAFETY: a process with a transaction has a PGPROC.
    unsafe {
        // 17 moved it into a structure.
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// The virtual id of the transaction that a process runs: the number of its backend, and the local
/// id. 0 if it runs none.
///
/// # Safety
/// This process must have a PGPROC, and `process` be the number of one.
pub unsafe fn virtual_transaction_of(process: usize) -> u64 {
    // SAFETY: as the caller promises. Other processes change these at any time, so the reads are
    // volatile.
    let (backend, local) = unsafe {
        let process = (*pg_sys::ProcGlobal).allProcs.add(process);
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let (backend, local) = (&raw const (*process).backendId, &raw const (*process).lxid);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let (backend, local) =
            (&raw const (*process).vxid.procNumber, &raw const (*process).vxid.lxid);
        (backend.read_volatile(), local.read_volatile())
    };
    if local == 0 { 0 } else { u64::from(backend.cast_unsigned()) << 32 | u64::from(local) }
}

/// Installs a signal handler.
///
/// # Safety
/// The handler must be async-signal-safe.
pub unsafe fn handle_signal(number: u32, handler: unsafe extern "C-unwind" fn(c_int)) {
    // 18 has two such functions, one for servers and one for clients.
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: as the caller promises.
    unsafe { pqsignal(number as c_int, Some(handler)) };
}

/// The columns of a row description.
///
/// # Safety
/// The description must be complete, and outlive the result.
pub unsafe fn attributes<'a>(
    description: pg_sys::TupleDesc,
) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: as the caller promises; it has `natts` attributes.
    unsafe {
        let count = usize::try_from((*description).natts).unwrap_or_default();
        #[cfg(not(feature = "pg18"))]
        let first = (*description).attrs.as_ptr();
        // In 18 the array of compact attributes comes first.
        #[cfg(feature = "pg18")]
        let first = (*description).compact_attrs.as_ptr().add(count).cast();
        std::slice::from_raw_parts(first, count)
    }
}

/// Timeout settings that not all major versions have, with the value that disables them.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const TIMEOUTS: [(&CStr, &CStr); 0] = [];
// 17 added transaction_timeout.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub const TIMEOUTS: [(&CStr, &CStr); 1] = [(c"transaction_timeout", c"0")];

type Conninfo = *const c_char;
type Name = *const c_char;
type Why = *mut *mut c_char;
#[cfg(feature = "pg15")]
type Connect =
    unsafe extern "C-unwind" fn(Conninfo, bool, Name, Why) -> *mut pg_sys::WalReceiverConn;
#[cfg(feature = "pg16")]
type Connect =
    unsafe extern "C-unwind" fn(Conninfo, bool, bool, Name, Why) -> *mut pg_sys::WalReceiverConn;
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
type Connect = unsafe extern "C-unwind" fn(
    Conninfo,
    bool,
    bool,
    bool,
    Name,
    Why,
) -> *mut pg_sys::WalReceiverConn;

/// Opens a connection for ordinary queries through libpqwalreceiver.
///
/// # Safety
/// `connect` must be the function of that library. This may raise an error.
pub unsafe fn connect(
    connect: Connect,
    conninfo: &CStr,
    error: &mut *mut c_char,
) -> *mut pg_sys::WalReceiverConn {
    let name = c"".as_ptr();
    // SAFETY: as the caller promises; the strings live through the call.
    unsafe {
        // A connection for logical replication runs queries, too.
        #[cfg(feature = "pg15")]
        return connect(conninfo.as_ptr(), true, name, error);
        // 16 added an argument that demands a password.
        #[cfg(feature = "pg16")]
        return connect(conninfo.as_ptr(), true, false, name, error);
        // 17 added connections without replication.
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return connect(conninfo.as_ptr(), false, false, false, name, error);
    }
}

/// Whether a role owns a table, or has the privileges of its owner.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn owns_table(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        // 16 replaced it by one function for objects of all kinds.
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(table, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, role);
    }
}

/// Runs a started query to its end.
///
/// # Safety
/// The query must have been started, and not been run.
pub unsafe fn run_executor(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    // SAFETY: as the caller promises.
    unsafe {
        // Up to 17, the last argument says that this is the only run.
        #[cfg(not(feature = "pg18"))]
        pg_sys::ExecutorRun(query, forward, 0, true);
        #[cfg(feature = "pg18")]
        pg_sys::ExecutorRun(query, forward, 0);
    }
}

/// Whether GRANT and REVOKE lock the objects that they name, as a reader does. 18 does, so that
/// they are not dropped meanwhile.
pub const GRANT_LOCKS: bool = cfg!(feature = "pg18");
