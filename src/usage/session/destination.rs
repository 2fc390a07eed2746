//! Whether this session's records are kept, and whether it may write them itself.

use crate::usage::standby::link;
use pgrx::pg_sys;

/// Whether records are kept here: on a standby only if it has where to send them.
pub fn is_kept_here() -> bool {
    // SAFETY: asks for the server's state.
    !unsafe { pg::direct::RecoveryInProgress() } || link::is_wanted()
}

/// Whether this transaction may write rows.
pub fn can_write() -> bool {
    // SAFETY: asks for the state of the transaction and the server.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}
