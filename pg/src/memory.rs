//! Memory that can't be had costs a statement, at worst its session, and never the server.
//!
//! Rust ends the process where it gets none, and PostgreSQL then restarts all others. And
//! pgrx, which takes the text of an error into memory of its own, needs some just when there
//! is none: a copy that fails is an error again, until PostgreSQL gives up. So a reserve is
//! kept while our code runs, and let go when memory runs out.

use crate::error::{Code, Error, Result, elog};
use pgrx::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY;
use pgrx::pg_sys::{self, ErrorContextCallback};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// PostgreSQL asks for a mebibyte at once, for however little, where a context is large.
const RESERVE: Layout = match Layout::from_size_align(2 << 20, 16) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

static HELD: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// The system's allocator, which ends the session where there is no memory.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: all is the system's, and null is never given.
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
    // What is done when the session ends may need some.
    let_go();
    // SAFETY: PostgreSQL's report functions have memory put by for this. The level is FATAL,
    // from which errfinish ends the process in order: nothing returns to whoever asked, and
    // nothing unwinds.
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
        // SAFETY: allocated with the same layout, and ours alone since it was taken out.
        unsafe { System.dealloc(held, RESERVE) };
    }
}

/// While this lives, the reserve is let go by the first error that tells of no memory.
pub struct Watch(ErrorContextCallback);

impl Watch {
    /// Runs `body` under watch, with a reserve. An error if there is no memory for one.
    #[inline]
    pub fn keep<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
        if HELD.load(Relaxed).is_null() {
            put_by()?;
        }
        Watch::over(body)
    }

    /// Runs `body` under watch, with what reserve there is.
    #[inline]
    pub fn over<T>(body: impl FnOnce() -> T) -> T {
        let mut watch = Watch(ErrorContextCallback {
            // SAFETY: backends have one thread.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(on_error),
            arg: null_mut(),
        });
        // SAFETY: taken off again when `watch` is dropped, which a panic does too.
        unsafe { pg_sys::error_context_stack = &raw mut watch.0 };
        body()
    }
}

impl Drop for Watch {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: backends have one thread, and what was above this one is gone.
        unsafe { pg_sys::error_context_stack = self.0.previous };
    }
}

#[cold]
fn put_by() -> Result<()> {
    // SAFETY: the layout has a size.
    let reserve = unsafe { System.alloc(RESERVE) };
    if reserve.is_null() {
        return Err(Error::new(Code::OutOfMemory, "out of memory"));
    }
    HELD.store(reserve, Relaxed);
    Ok(())
}

/// PostgreSQL calls this when an error is complete, before it leaves for who catches it.
unsafe extern "C-unwind" fn on_error(_argument: *mut c_void) {
    // SAFETY: there is an error whose code can be asked for.
    if unsafe { elog::geterrcode() } == ERRCODE_OUT_OF_MEMORY as c_int {
        let_go();
    }
}
