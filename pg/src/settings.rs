//! Settings for the length of a piece of work.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Sets what every user may set, until the nest level ends (see `NewGUCNestLevel`), at the
/// latest the transaction.
pub fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: both are C strings, which are copied.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}
