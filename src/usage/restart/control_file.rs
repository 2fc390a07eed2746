//! How the server ended before, and as what it starts.

use pgrx::pg_sys;
use std::ffi::CStr;
use std::path::Path;

/// What the control file says of the server's last end.
///
/// # Safety
/// Only in the postmaster.
pub unsafe fn was_shut_down() -> bool {
    // SAFETY: reads the file; the result is ours.
    unsafe {
        let mut is_intact = false;
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_intact);
        let state = (*control).state;
        pg_sys::pfree(control.cast());
        is_intact
            && (state == pg_sys::DBState::DB_SHUTDOWNED
                || state == pg_sys::DBState::DB_SHUTDOWNED_IN_RECOVERY)
    }
}

/// Whether the server is told to start as a standby.
///
/// # Safety
/// Only in the postmaster, before it has started anything.
pub unsafe fn is_standby() -> bool {
    // SAFETY: set before any library is loaded.
    let data = unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned();
    Path::new(&data).join("standby.signal").exists()
}
