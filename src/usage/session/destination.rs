//! Whether this session's records are kept, and whether it may write them itself.

use crate::usage::standby::link;
use pg::{server, transaction};

/// Whether records are kept here: on a standby only if it has where to send them.
pub fn is_kept_here() -> bool {
    !server::is_in_recovery() || link::is_wanted()
}

/// Whether this transaction may write rows.
pub fn can_write() -> bool {
    !transaction::is_read_only() && !server::is_in_recovery()
}
