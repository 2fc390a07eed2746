//! Whether this database is a subscriber: it receives rows that decide about keys by logical
//! replication.

use super::Catalog;
use super::columns::heartbeat;
use super::invalidation;
use pg::scan::{Room, Snapshot};
use pg::subscription::{self, Subscribed};
use pg::transaction;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How many changes of subscriptions this session has been told of.
static CHANGES: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// What was found, and the counts of changes before.
#[derive(Clone, Copy)]
struct Found {
    counts: [u64; 2],
    is_subscriber: bool,
    has_heartbeat: bool,
}

thread_local! {
    static FOUND: Cell<Option<Found>> = const { Cell::new(None) };
}

/// Whether this database is a subscriber, as this session knows. It looks again after a change if a
/// transaction is in progress. Also for callbacks at the end of a transaction.
#[inline]
pub fn is_subscriber() -> bool {
    match FOUND.get() {
        Some(found) if found.counts == counts() => found.is_subscriber,
        found => look_again(found),
    }
}

#[cold]
fn look_again(known: Option<Found>) -> bool {
    if transaction::is_in_progress() {
        return Catalog::open().is_ok_and(|catalog| catalog.is_subscriber());
    }
    known.is_some_and(|found| found.is_subscriber)
}

impl Catalog {
    /// Whether a subscription has one of the tables that decide about keys, even if the
    /// subscription is disabled. Reads catalogs only after a change.
    #[inline]
    pub fn is_subscriber(&self) -> bool {
        self.subscription().is_subscriber
    }

    /// Whether the publisher's heartbeat tells how old all the tables are that decide about keys:
    /// all come by one subscription, together with it, and the first copy of each is over.
    pub fn has_heartbeat(&self) -> bool {
        self.subscription().has_heartbeat
    }

    /// The publisher's newest heartbeat that a snapshot sees; `None` if no heartbeat tells how old
    /// the tables are.
    pub fn heartbeat(&self, snapshot: &Snapshot) -> Option<i64> {
        if !self.has_heartbeat() {
            return None;
        }
        let beats = self.tables.heartbeat.open();
        let room = Room::new();
        let row = beats.first(snapshot, &room, [], |_| true)?;
        row.timestamp(heartbeat::at)
    }

    #[inline]
    fn subscription(&self) -> Found {
        let counts = counts();
        match FOUND.get() {
            Some(found) if found.counts == counts => found,
            _ => self.look_for_subscription(),
        }
    }

    #[cold]
    fn look_for_subscription(&self) -> Found {
        if !REGISTERED.swap(true, Relaxed) {
            subscription::on_change(|| {
                CHANGES.fetch_add(1, Relaxed);
            });
        }
        // A change during the look-ups has another count.
        let counts = counts();
        let deciding: Vec<Subscribed> = self
            .tables
            .that_decide()
            .into_iter()
            .flat_map(|table| subscription::of(table.table))
            .collect();
        let beats = subscription::of(self.tables.heartbeat.table);
        let has_heartbeat = beats.len() == 1
            && beats.iter().all(|beat| beat.is_ready && deciding.iter().all(|table| table == beat));
        let found = Found { counts, is_subscriber: !deciding.is_empty(), has_heartbeat };
        FOUND.set(Some(found));
        found
    }
}

/// Our tables may be others after an invalidation, too.
#[inline]
pub fn counts() -> [u64; 2] {
    [CHANGES.load(Relaxed), invalidation::changes()]
}
