//! Events: a hint to listeners that something about a key has changed.
//!
//! PostgreSQL keeps notifications of all databases in one queue, until each session that
//! listens has read them. A session that listens and stays in a transaction lets the queue grow. A
//! commit fails if the queue is full, and no revocation may fail for that reason. So while the queue
//! is fuller than `keysmith.event_queue_limit`, events are left out and counted.

use crate::settings;
use pg::error::Result;
use pg::shmem::{Region, shareable};
use pg::spi::Param;
use pg::{clock, transaction};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The chain of acts that concern no single keyspace.
pub const EVERYWHERE: &str = "*";

pub static REGION: Region<Unsent> = Region::new(c"keysmith events", || Ok(Unsent::default()));

shareable! {
    /// Events that were left out since the server was started.
    #[derive(Default)]
    pub struct Unsent {
        count: AtomicI64,
        last_at: AtomicI64,
    }
}

/// How many events were left out since the server was started, and when the last was; null
/// if the library is not preloaded.
pub fn unsent() -> (Option<i64>, Option<i64>) {
    let counted = REGION.get().map(|unsent| {
        let count = unsent.count.load(Relaxed);
        (count, (count > 0).then(|| unsent.last_at.load(Relaxed)))
    });
    (counted.map(|(count, _)| count), counted.and_then(|(_, last_at)| last_at))
}

thread_local! {
    /// A transaction, and how many bytes of events wait for its commit.
    static WAITING: Cell<(u32, i64)> = const { Cell::new((0, 0)) };
}

/// An event about an act.
pub struct Event<'a> {
    pub action: &'a str,
    pub keyspace: &'a str,
}

/// A query that sends an event, and returns how many bytes it sent, or no row if there was no
/// room. $7 and $8 are the tenant and the key that it is about; the others are those of
/// `Event::send`.
///
/// Events that wait for the commit take no room in the queue yet. They will take less than twice
/// their bytes, with what PostgreSQL adds. Before 17 the size of the queue was fixed.
macro_rules! send {
    () => {
        "SELECT pg_catalog.octet_length(e.payload)::bigint, pg_catalog.pg_notify(e.channel, e.payload)
         FROM (SELECT k.event_channel AS channel, pg_catalog.json_build_object(
                   'event', $13, 'key_id', $8, 'tenant', $7, 'keyspace', k.keyspace,
                   'at', pg_catalog.clock_timestamp())::text AS payload
               FROM keysmith_private.keyspace k WHERE k.keyspace = $14) e
         WHERE 100 * (pg_catalog.pg_notification_queue_usage() + 2 * $15 / (8192::float8 * coalesce(
             pg_catalog.current_setting('max_notify_queue_pages', true)::bigint, 1048576))) <= $16"
    };
}
pub(super) use send;

impl Event<'_> {
    /// An act that concerns no single keyspace has no channel.
    pub fn has_channel(&self) -> bool {
        self.keyspace != EVERYWHERE
    }

    /// Sends the event; it is delivered if and when the transaction commits. `run` runs the query
    /// with the parameters $13 to $16, which it is given.
    pub fn send(&self, run: impl FnOnce([Param; 4]) -> Result<Option<i64>>) -> Result<()> {
        let transaction = transaction::local_id();
        let waiting = match WAITING.get() {
            (of, bytes) if of == transaction => bytes,
            _ => 0,
        };
        let sent = run([
            Param::text(self.action),
            Param::text(self.keyspace),
            Param::bigint(Some(waiting)),
            Param::integer(Some(settings::event_queue_limit())),
        ])?;
        match (sent, REGION.get()) {
            (Some(bytes), _) => WAITING.set((transaction, waiting.saturating_add(bytes))),
            (None, Some(unsent)) => {
                unsent.count.fetch_add(1, Relaxed);
                unsent.last_at.store(clock::now(), Relaxed);
            }
            (None, None) => {}
        }
        Ok(())
    }
}
