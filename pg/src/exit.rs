//! What is done when a process ends.

use pgrx::pg_sys::{self, Datum};
use std::ffi::c_int;

/// What is called, and for what.
struct AtExit {
    then: fn(c_int, usize),
    what: usize,
}

/// Has `then` called with the exit code and a number when this process leaves shared memory,
/// while it can still use all of it.
pub fn before_leaving(then: fn(c_int, usize), what: usize) {
    let record = Box::into_raw(Box::new(AtExit { then, what }));
    // SAFETY: the record is never freed.
    unsafe { pg_sys::before_shmem_exit(Some(call), Datum::from(record)) };
}

/// The same as the last thing that it does with shared memory. Where the postmaster asks for
/// it, backends don't inherit it.
pub fn at_leaving(then: fn(c_int, usize), what: usize) {
    let record = Box::into_raw(Box::new(AtExit { then, what }));
    // SAFETY: as above.
    unsafe { pg_sys::on_shmem_exit(Some(call), Datum::from(record)) };
}

/// # Safety
/// Called by PostgreSQL with a record.
unsafe extern "C-unwind" fn call(code: c_int, record: Datum) {
    // SAFETY: as the caller promises. Nothing on this frame needs dropping.
    unsafe {
        let AtExit { then, what } = *record.cast_mut_ptr::<AtExit>();
        pg_sys::panic::pgrx_extern_c_guard(|| then(code, what));
    }
}
