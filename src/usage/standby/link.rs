//! A standby's connection to its primary.

use crate::usage::settings;
use keysmith_core::conninfo;
use pg::server;
use pg::wal_receiver::Connection;

pub use pg::wal_receiver::Failed;

/// What these connections are called on the primary, which tells them from standbys.
pub const APPLICATION: &str = "keysmith usage";

/// A primary that is gone without a word is given up after as many milliseconds.
const SILENCE: &str = "10000";

/// A primary that is held up must not hold up the standby for good, and the settings of the role
/// and the database there must not keep usage from being stored.
const SETTINGS: [&str; 3] = [
    "SET statement_timeout = '20s'",
    "SET default_transaction_read_only = off",
    "SET default_transaction_isolation = 'read committed'",
];

/// Where to connect: as the setting says, or where the log comes from. `None` where
/// usage is not to be sent, or there is no such place.
pub fn conninfo() -> Option<String> {
    let chosen = settings::conninfo();
    if chosen == settings::OFF {
        return None;
    }
    let found = if chosen.is_empty() { server::primary_conninfo() } else { chosen };
    (!found.is_empty()).then_some(found)
}

/// Whether there is such a place. Asked for each request on a standby.
pub fn is_wanted() -> bool {
    settings::is_sending(server::has_primary_conninfo())
}

/// Connects to a database of the primary's. Called in a transaction.
pub fn open(conninfo: &str, database: &str, standby: &str) -> Result<Connection, Failed> {
    let name = format!("{APPLICATION} {standby}");
    let connection = Connection::open(&conninfo::with(
        conninfo,
        &[("dbname", database), ("application_name", &name), ("tcp_user_timeout", SILENCE)],
    ))?;
    for setting in SETTINGS {
        connection.query(setting, 0)?;
    }
    Ok(connection)
}
