//! Running out of memory ends a statement, at worst the session, but never the server.
//!
//! Rust aborts a process that runs out of memory, and PostgreSQL then restarts all others. So the
//! allocator here ends the session instead. And pgrx copies the text of each PostgreSQL error into
//! Rust's memory. If there is no memory for the copy, that is an error again, and so on until
//! PostgreSQL gives up. So a reserve is held while our code runs, and is freed when memory runs
//! out.

use crate::error::{Code, Error, Result, elog};
use pgrx::PgSqlErrorCode::{ERRCODE_INTERNAL_ERROR, ERRCODE_OUT_OF_MEMORY};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, ErrorContextCallback};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::Relaxed};

/// A memory context that has grown large asks for a mebibyte, even for a small request.
const RESERVE: Layout = match Layout::from_size_align(2 << 20, 16) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

static HELD: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// The system's allocator, except that it ends the session when memory runs out.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: all calls go to the system's allocator, and null is never returned.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        sure(layout.size(), unsafe { System.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        sure(layout.size(), unsafe { System.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        sure(size, unsafe { System.realloc(memory, layout, size) })
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[inline]
fn sure(size: usize, memory: *mut u8) -> *mut u8 {
    if memory.is_null() { end_session(size) } else { memory }
}

#[cold]
fn end_session(size: usize) -> ! {
    // Ending the session may need memory.
    let_go();
    // SAFETY: PostgreSQL reserves memory for its report functions. At level FATAL errfinish ends
    // the process in order: it does not return to the caller and does not unwind.
    unsafe {
        elog::errstart(elog::FATAL, null());
        elog::errcode(ERRCODE_OUT_OF_MEMORY as c_int);
        elog::errmsg(c"out of memory".as_ptr());
        elog::errdetail(c"keysmith asked for %zu bytes.".as_ptr(), size);
        elog::errfinish(c"keysmith".as_ptr(), 0, null());
    }
    std::process::abort()
}

fn let_go() {
    let held = HELD.swap(null_mut(), Relaxed);
    if !held.is_null() {
        // SAFETY: allocated with this layout. The swap has left this as the only pointer to it.
        unsafe { System.dealloc(held, RESERVE) };
    }
}

/// While this lives, the first out-of-memory error frees the reserve.
pub struct Watch(ErrorContextCallback);

impl Watch {
    /// Runs `body` with a reserve, which an out-of-memory error frees. An error if there is no
    /// memory for the reserve.
    #[inline]
    pub fn keep<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
        if HELD.load(Relaxed).is_null() {
            put_by()?;
        }
        Watch::over(body)
    }

    /// Runs `body` likewise, with the reserve that there already is, if any.
    #[inline]
    pub fn over<T>(body: impl FnOnce() -> T) -> T {
        let mut watch = Watch(ErrorContextCallback {
            // SAFETY: backends have one thread.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(on_error),
            arg: null_mut(),
        });
        // SAFETY: `watch` is removed from the stack when it is dropped, also by a panic.
        unsafe { pg_sys::error_context_stack = &raw mut watch.0 };
        body()
    }
}

impl Drop for Watch {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: backends have one thread, and the entries above this one have been removed.
        unsafe { pg_sys::error_context_stack = self.0.previous };
    }
}

#[cold]
fn put_by() -> Result<()> {
    // SAFETY: the size of the layout is not zero.
    let reserve = unsafe { System.alloc(RESERVE) };
    if reserve.is_null() {
        return Err(Error::new(Code::OutOfMemory, "out of memory"));
    }
    HELD.store(reserve, Relaxed);
    Ok(())
}

/// PostgreSQL calls this when the report of an error is complete, before it jumps to the handler.
unsafe extern "C-unwind" fn on_error(_argument: *mut c_void) {
    // SAFETY: called while an error is reported, so there is a current error code.
    let code = unsafe { elog::geterrcode() };
    LAST_CODE.store(code, Relaxed);
    if code == ERRCODE_OUT_OF_MEMORY as c_int {
        let_go();
    }
}

/// The SQLSTATE of the last error that was raised while our code ran, as PostgreSQL packs it.
static LAST_CODE: AtomicI32 = AtomicI32::new(ERRCODE_INTERNAL_ERROR as c_int);

/// The SQLSTATE of an error that pgrx has caught. It knows PostgreSQL's own codes only, and takes
/// others for internal errors.
pub(crate) fn code_of(error: &CaughtError) -> c_int {
    let (report, was_raised) = match error {
        CaughtError::PostgresError(report) => (report, true),
        CaughtError::ErrorReport(report) | CaughtError::RustPanic { ereport: report, .. } => {
            (report, false)
        }
    };
    match report.sql_error_code() {
        ERRCODE_INTERNAL_ERROR if was_raised => LAST_CODE.load(Relaxed),
        code => code as c_int,
    }
}
