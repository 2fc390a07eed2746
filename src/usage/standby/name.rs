//! The name of a standby.

use pg::server;

/// What this standby is called in the primary's books.
pub fn own() -> String {
    let cluster = server::cluster_name();
    if cluster.is_empty() { format!("{}:{}", server::host_name(), server::port()) } else { cluster }
}
