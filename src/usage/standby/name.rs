//! The name of a standby, and of a primary that may become one.

use pg::server;

/// This server's name in the primary's `usage_incarnation`.
pub fn own() -> String {
    let cluster = server::cluster_name();
    if cluster.is_empty() { format!("{}:{}", server::host_name(), server::port()) } else { cluster }
}
