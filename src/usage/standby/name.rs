//! The name of a standby.

use pg::text;
use pgrx::pg_sys;
use std::ffi::CStr;

/// What this standby is called in the primary's books.
pub fn own() -> String {
    // SAFETY: a setting of the server's: null, or a C string.
    let cluster = unsafe {
        let name = pg_sys::cluster_name;
        if name.is_null() { String::new() } else { text::lossy(CStr::from_ptr(name).to_bytes()) }
    };
    if !cluster.is_empty() {
        return cluster;
    }
    let mut host = [0; 256];
    // SAFETY: the room is as long as is said, and its last byte stays 0.
    unsafe { libc::gethostname(host.as_mut_ptr(), host.len() - 1) };
    // SAFETY: ends with a 0, as does what was written.
    let host = unsafe { CStr::from_ptr(host.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: set when the server started.
    format!("{host}:{}", unsafe { pg_sys::PostPortNumber })
}
