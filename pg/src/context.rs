//! Memory contexts, as names for a stretch of work: what is done in one is over when it is
//! reset.

use pgrx::pg_sys::{self, MemoryContextCallback};
use std::ffi::c_void;

/// The current context.
pub fn current() -> usize {
    // SAFETY: set at all times.
    unsafe { pg_sys::CurrentMemoryContext as usize }
}

/// What is called when a context is reset, in memory of that context.
struct AtReset {
    callback: MemoryContextCallback,
    then: fn(usize),
    context: usize,
}

/// Has `then` called when the current context is reset or deleted. It must not fail.
pub fn at_reset(then: fn(usize)) {
    // SAFETY: the record lives in the context that it is for.
    unsafe {
        let record: *mut AtReset = pg_sys::palloc0(size_of::<AtReset>()).cast();
        (*record).then = then;
        (*record).context = current();
        (*record).callback.func = Some(call);
        (*record).callback.arg = record.cast();
        let callback = &raw mut (*record).callback;
        pg_sys::MemoryContextRegisterResetCallback(pg_sys::CurrentMemoryContext, callback);
    }
}

/// # Safety
/// Called by PostgreSQL with a record.
unsafe extern "C-unwind" fn call(record: *mut c_void) {
    // SAFETY: as the caller promises.
    let (then, context) = unsafe {
        let record = record.cast::<AtReset>();
        ((*record).then, (*record).context)
    };
    then(context);
}
