//! What PostgreSQL calls: in one way, with one guard.

use crate::error::{Error, Result};
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

/// Runs what PostgreSQL has called. A panic, an error of `body`, and an error of PostgreSQL's
/// that crossed Rust's frames all leave as an error of PostgreSQL's.
///
/// # Safety
/// An error leaves by a long jump: the caller's frame may hold nothing that needs dropping.
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

/// Has a function called when PostgreSQL loads the library: in the postmaster where it is
/// preloaded, else in the first session of a backend that calls one of its functions.
#[macro_export]
macro_rules! on_load {
    ($function:path) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn _PG_init() {
            // SAFETY: nothing else is on this frame.
            unsafe { $crate::callback::guarded($function) }
        }
    };
}
pub use on_load;
