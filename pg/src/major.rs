//! What differs between PostgreSQL's majors. The rest of the code knows of none.

use crate::column::{self, Column};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

/// The server's count of ended transactions that could have changed anything.
///
/// # Safety
/// Shared memory must be there, as in every process that runs functions or workers.
#[inline]
pub unsafe fn completed_transactions() -> u64 {
    // 17 gave the structure another name.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    use pg_sys::ShmemVariableCache as variables;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    use pg_sys::TransamVariables as variables;
    // SAFETY: as the caller promises. Others change it meanwhile, hence the volatile read.
    unsafe { std::ptr::read_volatile(&raw const (*variables).xactCompletionCount) }
}

/// The columns of pg_auth_members that name the member and the role. 16 put an oid before.
pub const MEMBERSHIP_ROLE: Column<column::Oid> =
    Column::new(if cfg!(feature = "pg15") { 1 } else { 2 });
pub const MEMBERSHIP_MEMBER: Column<column::Oid> = Column::new(MEMBERSHIP_ROLE.number() + 1);

/// The number by which this session knows its transaction.
///
/// # Safety
/// A transaction must be in progress.
pub unsafe fn local_transaction_id() -> u32 {
    // SAFETY: such a process has an entry among the processes.
    unsafe {
        // 17 moved it into a structure.
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// # Safety
/// The handler must be fit to run at any moment.
pub unsafe fn handle_signal(number: u32, handler: unsafe extern "C-unwind" fn(c_int)) {
    // 18 has two such functions, one for servers and one for clients.
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: as the caller promises.
    unsafe { pqsignal(number as c_int, Some(handler)) };
}

/// A row's columns.
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
        // 18 has a short form of each before them all.
        #[cfg(feature = "pg18")]
        let first = (*description).compact_attrs.as_ptr().add(count).cast();
        std::slice::from_raw_parts(first, count)
    }
}

/// Settings that end what takes long, other than those that all majors have.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const TIMEOUTS: [(&CStr, &CStr); 0] = [];
// 17 can end a session for a transaction that takes long.
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

/// Connects for ordinary queries, by the client that standbys have.
///
/// # Safety
/// The function must be that client's. This may raise an error.
pub unsafe fn connect(
    connect: Connect,
    conninfo: &CStr,
    error: &mut *mut c_char,
) -> *mut pg_sys::WalReceiverConn {
    let name = c"".as_ptr();
    // SAFETY: as the caller promises; the strings live through the call.
    unsafe {
        // A connection for logical replication takes queries, too.
        #[cfg(feature = "pg15")]
        return connect(conninfo.as_ptr(), true, name, error);
        // From 16 on it can be said that there must be a password.
        #[cfg(feature = "pg16")]
        return connect(conninfo.as_ptr(), true, false, name, error);
        // 17 has connections for no replication at all.
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return connect(conninfo.as_ptr(), false, false, false, name, error);
    }
}

/// Whether a role owns a table, or may do what its owner may.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn owns_table(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        // 16 has one function for objects of all kinds.
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(table, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, role);
    }
}

/// Runs a query that was started, to its end.
///
/// # Safety
/// The query must have been started, and not been run.
pub unsafe fn run_executor(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    // SAFETY: as the caller promises.
    unsafe {
        // Up to 17 it is said that this is the only run.
        #[cfg(not(feature = "pg18"))]
        pg_sys::ExecutorRun(query, forward, 0, true);
        #[cfg(feature = "pg18")]
        pg_sys::ExecutorRun(query, forward, 0);
    }
}

/// Whether GRANT and REVOKE lock the objects that they name, as readers do. 18 does, lest they
/// are dropped meanwhile.
pub const GRANT_LOCKS: bool = cfg!(feature = "pg18");
