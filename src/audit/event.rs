//! Events: a hint to listeners that something about a key has changed.
//!
//! PostgreSQL keeps notifications of all databases in one queue, until each session that
//! listens has read them. A session that listens and stays in a transaction lets the queue grow. A
//! commit fails if the queue is full, and no revocation may fail for that reason. So while the queue
//! is fuller than `keysmith.event_queue_limit`, events are left out and counted. The commit looks at the
//! queue, after it has taken the lock with which others add to it.

use crate::settings;
use pg::shmem::{Region, shareable};
use pg::{clock, notify};
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

/// A notification that waits for the commit.
pub struct Event {
    pub channel: String,
    pub payload: String,
}

/// Whether acts of a keyspace have a channel. Those that concern no single one have none.
pub fn has_channel(keyspace: &str) -> bool {
    keyspace != EVERYWHERE
}

/// Sends the events of a transaction that is about to commit. It raises no error: those that
/// find no room are left out.
pub fn send<'a>(events: impl Iterator<Item = &'a Event>) {
    let mut events = events.peekable();
    if events.peek().is_none() {
        return;
    }
    let is_kept = notify::keep_queue();
    let (used, size) = notify::queue();
    let most = f64::from(settings::event_queue_limit()) / 100.0;
    let (mut bytes, mut left_out) = (0, 0);
    for event in events {
        // They take less than twice their bytes, with what PostgreSQL adds.
        let has_room = is_kept && used + 2.0 * f64::from(bytes) / size <= most;
        if has_room && notify::send(&event.channel, &event.payload) {
            bytes += event.payload.len() as u32;
        } else {
            left_out += 1;
        }
    }
    if let Some(unsent) = REGION.get().filter(|_| left_out > 0) {
        unsent.count.fetch_add(left_out, Relaxed);
        unsent.last_at.store(clock::now(), Relaxed);
    }
}
