//! A standby's connection to its primary, or a subscriber's to its publisher.

use crate::catalog::subscription;
use crate::usage::node::Node;
use crate::usage::settings;
use crate::usage::standby::load::{Incarnation, Marks};
use crate::usage::transaction::{Failure, bare_transaction};
use keysmith_core::conninfo;
use pg::wal_receiver::Connection;
use pg::{server, spi};

pub use pg::wal_receiver::Failed;

/// The application name of these connections. It tells them from standbys.
pub const APPLICATION: &str = "keysmith usage";

/// A primary that does not answer is given up after so many milliseconds.
const SILENCE: &str = "10000";

/// A primary that is held up must not hold up the standby for good, and the settings of the role
/// and the database there must not keep usage from being stored.
const SETTINGS: [&str; 3] = [
    "SET statement_timeout = '20s'",
    "SET default_transaction_read_only = off",
    "SET default_transaction_isolation = 'read committed'",
];

/// Where to connect: as `usage_conninfo` says, or like the subscription, or `primary_conninfo`.
/// `None` if usage is not sent, or while there is no primary: Patroni empties `primary_conninfo`
/// then. Called outside of a transaction.
pub fn conninfo() -> Result<Option<Conninfo>, Failed> {
    if !settings::is_sending() {
        return Ok(None);
    }
    let chosen = settings::conninfo();
    if chosen.is_empty()
        && let Some(server) = publisher()?
    {
        // The databases may have different names. The subscription has that of the publisher.
        return Ok(Some(Conninfo { server, names_database: true }));
    }
    let server = if chosen.is_empty() { server::primary_conninfo() } else { chosen };
    Ok((!server.is_empty()).then_some(Conninfo { server, names_database: false }))
}

pub struct Conninfo {
    server: String,
    names_database: bool,
}

/// How the subscription that has the keys reaches the publisher. It may hold a password. This process
/// connects with the rights of the server's user, so others than superusers may not choose where to.
fn publisher() -> Result<Option<String>, Failed> {
    let found = bare_transaction("looking for the publisher", || {
        spi::session(|| {
            spi::first(
                "SELECT s.subconninfo FROM pg_catalog.pg_subscription s
                 JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
                 JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
                 JOIN pg_catalog.pg_roles o ON o.oid = s.subowner AND o.rolsuper
                 WHERE c.relnamespace = 'keysmith_private'::pg_catalog.regnamespace
                 ORDER BY c.relname <> 'key', NOT s.subenabled, s.oid LIMIT 1",
                &[],
                |row| row.text(1),
            )
        })
    });
    found.map_err(|Failure { message, .. }| Failed { message })
}

/// Whether another server stores the usage of this database: it is on a standby, or it is a
/// subscriber. Asked for each request.
#[inline]
pub fn is_needed() -> bool {
    server::is_in_recovery() || subscription::is_subscriber()
}

/// An open connection.
pub struct Link(Connection);

/// Counts of requests without a known key, to be sent.
#[derive(Default)]
pub struct Unsent {
    pub mark: u64,
    pub counts: Vec<u8>,
    pub samples: Vec<u8>,
}

impl Link {
    /// Connects to the database that stores usage. Called in a transaction.
    pub fn open(conninfo: &Conninfo, database: &str, node: &Node) -> Result<Link, Failed> {
        let name = format!("{APPLICATION} {}", node.name);
        let mut parameters = vec![("application_name", &*name), ("tcp_user_timeout", SILENCE)];
        if !conninfo.names_database {
            parameters.push(("dbname", database));
        }
        let connection = Connection::open(&conninfo::with(&conninfo.server, &parameters))?;
        for setting in SETTINGS {
            connection.query(setting, 0)?;
        }
        Ok(Link(connection))
    }

    /// Has the primary receive records and counts. Called in a transaction.
    pub fn hand_over(
        &self,
        incarnation: &Incarnation,
        records: &[u8],
        unsent: &Unsent,
    ) -> Result<Marks, Failed> {
        let statement = format!(
            "SELECT last_sequence::pg_catalog.text, unknown_seen::pg_catalog.text
             FROM keysmith.usage_collect({}, {}, {}, {}, {}, {}, {}, {}, {})",
            literal(&incarnation.node.to_string()),
            incarnation.id,
            incarnation.most_waiting,
            incarnation.started_cleanly,
            incarnation.dropped,
            bytea(records),
            unsent.mark,
            bytea(&unsent.counts),
            bytea(&unsent.samples),
        );
        let row = self.0.query(&statement, 2)?;
        let number = |n: usize| row.get(n)?.as_deref()?.parse().ok();
        match (number(0), number(1)) {
            (Some(last_sequence), Some(unknown_seen)) => Ok(Marks { last_sequence, unknown_seen }),
            _ => Err(Failed { message: "the primary's answer is unknown".into() }),
        }
    }
}

/// A text in a statement. Backslashes mean themselves only where that is the setting,
/// so it is written in the form in which they don't.
fn literal(value: &str) -> String {
    format!("E'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

fn bytea(bytes: &[u8]) -> String {
    format!(r"E'\\x{}'::pg_catalog.bytea", hex::encode(bytes))
}
