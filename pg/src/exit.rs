//! Callbacks for the end of a process.

use pgrx::pg_sys::{self, Datum};
use std::ffi::c_int;

/// A callback and its argument.
struct AtExit {
    then: fn(c_int, usize),
    what: usize,
}

/// Registers `then`, which is called with the exit code and `what` when this process is about to
/// leave shared memory, while it can still use all of it.
pub fn before_leaving(then: fn(c_int, usize), what: usize) {
    let record = Box::into_raw(Box::new(AtExit { then, what }));
    // SAFETY: the record is never freed.
    unsafe { pg_sys::before_shmem_exit(Some(call), Datum::from(record)) };
}

/// Registers `then`, which is called as the last thing that this process does with shared memory.
/// Backends do not inherit a callback that the postmaster registers.
pub fn at_leaving(then: fn(c_int, usize), what: usize) {
    let record = Box::into_raw(Box::new(AtExit { then, what }));
    // SAFETY: as above.
    unsafe { pg_sys::on_shmem_exit(Some(call), Datum::from(record)) };
}

/// # Safety
/// The argument must be a record that this module registered.
unsafe extern "C-unwind" fn call(code: c_int, record: Datum) {
    // SAFETY: as the caller promises. Nothing on this frame needs dropping.
    unsafe {
        let AtExit { then, what } = *record.cast_mut_ptr::<AtExit>();
        pg_sys::panic::pgrx_extern_c_guard(|| then(code, what));
    }
}
