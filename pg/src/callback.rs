//! The guard around functions that PostgreSQL calls.

use crate::error::{Error, Result};
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

/// Runs the body of a function that PostgreSQL has called. A panic, an error that `body` returns,
/// and a PostgreSQL error that crossed Rust frames all leave as a PostgreSQL error.
///
/// # Safety
/// An error leaves by a long jump: the caller's frame must hold nothing that needs dropping.
#[inline]
pub unsafe fn guarded<T>(body: impl FnOnce() -> Result<T>) -> T {
    // SAFETY: as the caller promises.
    unsafe {
        match pgrx_extern_c_guard(|| body().map_err(Error::into_report)) {
            Ok(result) => result,
            Err(report) => report.raise(),
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
