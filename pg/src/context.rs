//! Memory contexts, as names for a stretch of work: what is done in one is over when it is
//! reset.

use pgrx::pg_sys::{self, MemoryContext, MemoryContextCallback};
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

/// Has `then` called when the current context is reset or deleted. It must not fail: a panic
/// ends the process.
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
    without_panic(|| then(context));
}

/// Runs what may not fail: a panic ends the process. PostgreSQL frees memory, and can't be left.
pub(crate) fn without_panic(body: impl FnOnce()) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            std::process::abort();
        }
    }
    let end = End;
    body();
    std::mem::forget(end);
}

/// A context for what is called again and again, deleted with its owner.
pub struct Owned(MemoryContext);

impl Owned {
    pub fn new() -> Owned {
        // SAFETY: the context around it lives as long as the process.
        Owned(unsafe { make(pg_sys::TopMemoryContext, pg_sys::ALLOCSET_SMALL_INITSIZE) })
    }

    pub(crate) fn get(&self) -> MemoryContext {
        self.0
    }
}

impl Default for Owned {
    fn default() -> Owned {
        Owned::new()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and never the current one.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }
}

/// # Safety
/// The context around it must be there.
pub(crate) unsafe fn make(around: MemoryContext, size: u32) -> MemoryContext {
    // SAFETY: as the caller promises; the name is static.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            around,
            c"keysmith".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            size as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}
