//! Reset callbacks of memory contexts, and contexts that are deleted with their owner.

use pgrx::pg_sys::{self, MemoryContext, MemoryContextCallback};
use std::ffi::c_void;

/// The address of the current memory context, which identifies it.
pub fn current() -> usize {
    // SAFETY: CurrentMemoryContext is always set.
    unsafe { pg_sys::CurrentMemoryContext as usize }
}

/// The record of a reset callback, allocated in the context that it is registered for.
struct AtReset {
    callback: MemoryContextCallback,
    then: fn(usize),
    context: usize,
}

/// Registers `then`, which is called with the context's address when the current context is reset
/// or deleted. It must not fail: a panic ends the process.
pub fn at_reset(then: fn(usize)) {
    // SAFETY: the record is allocated in the context itself, which calls its callbacks before it
    // frees its memory.
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
/// The argument must be a record that `at_reset` registered.
unsafe extern "C-unwind" fn call(record: *mut c_void) {
    // SAFETY: as the caller promises.
    let (then, context) = unsafe {
        let record = record.cast::<AtReset>();
        ((*record).then, (*record).context)
    };
    without_panic(|| then(context));
}

/// Runs `body`, which must not fail: a panic ends the process. PostgreSQL is freeing memory here,
/// and no error may interrupt it.
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

/// A memory context for data that is kept between calls. It is deleted when this is dropped.
pub struct Owned(MemoryContext);

impl Owned {
    pub fn new() -> Owned {
        // SAFETY: the parent context lives as long as the process.
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
        // SAFETY: created in `new`; it is never the current context.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }
}

/// # Safety
/// The parent context must be valid.
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
