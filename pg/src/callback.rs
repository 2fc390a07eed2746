//! The guard around functions that PostgreSQL calls.

use crate::error::{Error, Result, elog};
use crate::memory;
use pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
use pgrx::pg_sys::panic::{CaughtError, pgrx_extern_c_guard};
use pgrx::pg_sys::{self, ErrorContextCallback};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// Runs the body of a function that PostgreSQL has called. A panic, an error that `body` returns,
/// and a PostgreSQL error that crossed Rust frames all leave as a PostgreSQL error.
///
/// # Safety
/// An error leaves by a long jump: the caller's frame must hold nothing that needs dropping.
#[inline]
pub unsafe fn guarded<T>(body: impl FnOnce() -> Result<T>) -> T {
    // SAFETY: as the caller promises.
    unsafe {
        match pgrx_extern_c_guard(|| with_code(body).map_err(Error::into_report)) {
            Ok(result) => result,
            Err(report) => report.raise(),
        }
    }
}

/// Runs `body`. A PostgreSQL error that crosses it is raised again by pgrx, which knows PostgreSQL's
/// own codes only. So that others are not lost, the code is set again then.
#[inline]
fn with_code<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|thrown| {
        if let Some(error) = thrown.downcast_ref::<CaughtError>() {
            set_again(memory::code_of(error));
        }
        resume_unwind(thrown)
    })
}

static CODE: AtomicI32 = AtomicI32::new(0);

/// Sets a code for the error that is raised next.
#[cold]
fn set_again(code: c_int) {
    static mut ENTRY: ErrorContextCallback =
        ErrorContextCallback { previous: null_mut(), callback: Some(on_error), arg: null_mut() };
    CODE.store(code, Relaxed);
    // SAFETY: backends have one thread. A handler takes the entry off the stack again, with all others
    // that came after its own.
    unsafe {
        let entry = &raw mut ENTRY;
        if pg_sys::error_context_stack != entry {
            (*entry).previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = entry;
        }
    }
}

/// PostgreSQL calls this when the report of an error is complete, before it jumps to the handler.
unsafe extern "C-unwind" fn on_error(_argument: *mut c_void) {
    // SAFETY: called while an error is reported.
    unsafe {
        if elog::geterrcode() == ERRCODE_INTERNAL_ERROR as c_int {
            elog::errcode(CODE.load(Relaxed));
        }
    }
}

/// Declares the function that PostgreSQL calls when it loads the library: in the postmaster if the
/// library is preloaded, otherwise in a backend when it first calls one of the library's functions.
#[macro_export]
macro_rules! on_load {
    ($function:path) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn _PG_init() {
            // SAFETY: this frame holds nothing that needs dropping.
            unsafe { $crate::callback::guarded($function) }
        }
    };
}
pub use on_load;
