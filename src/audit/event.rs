//! Events: a hint to listeners that something about a key has changed.
//!
//! PostgreSQL keeps notifications of all databases in one queue, until each session that
//! listens has read them. A session that listens and stays in a transaction fills it, and a
//! commit that finds no room fails. No revocation may fail for that: an event is left out,
//! and counted, while the queue is fuller than `keysmith.event_queue_limit` says.

use crate::settings;
use pg::error::Result;
use pg::shmem::{Region, shareable};
use pg::spi::{self, Param};
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

/// Sends an event; it is delivered if and when the transaction commits.
pub fn send(
    event: &str,
    keyspace: &str,
    key_id: Option<&[u8; 16]>,
    tenant: Option<&str>,
) -> Result<()> {
    // An act that concerns no single keyspace has no channel.
    if keyspace == EVERYWHERE {
        return Ok(());
    }
    let transaction = transaction::local_id();
    let waiting = match WAITING.get() {
        (of, bytes) if of == transaction => bytes,
        _ => 0,
    };
    // What waits takes its room only at the commit. Twice that is more than it takes with
    // what PostgreSQL adds. Before 17 the size of the queue was fixed.
    let sent = spi::first(
        "SELECT pg_catalog.octet_length(e.payload)::bigint, pg_catalog.pg_notify(e.channel, e.payload)
         FROM (SELECT k.event_channel AS channel, pg_catalog.json_build_object(
                   'event', $1, 'key_id', $3, 'tenant', $4, 'keyspace', k.keyspace,
                   'at', pg_catalog.clock_timestamp())::text AS payload
               FROM keysmith_private.keyspace k WHERE k.keyspace = $2) e
         WHERE 100 * (pg_catalog.pg_notification_queue_usage() + 2 * $5 / (8192::float8 * coalesce(
             pg_catalog.current_setting('max_notify_queue_pages', true)::bigint, 1048576))) <= $6",
        &[
            Param::text(event),
            Param::text(keyspace),
            Param::uuid_or_null(key_id),
            Param::text_or_null(tenant),
            Param::bigint(Some(waiting)),
            Param::integer(Some(settings::event_queue_limit())),
        ],
        |row| row.bigint(1),
    )?;
    match sent {
        Some(bytes) => WAITING.set((transaction, waiting.saturating_add(bytes))),
        None => {
            if let Some(unsent) = REGION.get() {
                unsent.count.fetch_add(1, Relaxed);
                unsent.last_at.store(clock::now(), Relaxed);
            }
        }
    }
    Ok(())
}
