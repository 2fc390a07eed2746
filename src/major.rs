//! What differs between PostgreSQL's majors. The rest of the code knows of none.

use pgrx::pg_sys;
use std::ffi::c_int;

/// The server's count of ended transactions that could have changed anything.
///
/// # Safety
/// Shared memory must be there, as in every process that runs functions or workers.
#[inline]
pub unsafe fn completed_transactions() -> u64 {
    // 17 gave the structure another name.
    #[cfg(feature = "pg15")]
    use pg_sys::ShmemVariableCache as variables;
    #[cfg(not(feature = "pg15"))]
    use pg_sys::TransamVariables as variables;
    // SAFETY: as the caller promises. Others change it meanwhile, hence the volatile read.
    unsafe { std::ptr::read_volatile(&raw const (*variables).xactCompletionCount) }
}

/// The number by which this session knows its transaction.
///
/// # Safety
/// A transaction must be in progress.
pub unsafe fn local_transaction_id() -> u32 {
    // SAFETY: such a process has an entry among the processes.
    unsafe {
        // 17 moved it into a structure.
        #[cfg(feature = "pg15")]
        return (*pg_sys::MyProc).lxid;
        #[cfg(not(feature = "pg15"))]
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
