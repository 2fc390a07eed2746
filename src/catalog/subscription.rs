//! Whether this database is a subscriber: it receives rows that decide about keys by logical
//! replication.

use super::Catalog;
use super::invalidation;
use pg::subscription;
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
}

thread_local! {
    static FOUND: Cell<Option<Found>> = const { Cell::new(None) };
}

impl Catalog {
    /// Whether a subscription has one of the tables that decide about keys, even if the
    /// subscription is disabled. Reads catalogs only after a change.
    #[inline]
    pub fn is_subscriber(&self) -> bool {
        let counts = counts();
        match FOUND.get() {
            Some(found) if found.counts == counts => found.is_subscriber,
            _ => self.look_for_subscription(),
        }
    }

    #[cold]
    fn look_for_subscription(&self) -> bool {
        if !REGISTERED.swap(true, Relaxed) {
            subscription::on_change(|| {
                CHANGES.fetch_add(1, Relaxed);
            });
        }
        // A change during the look-ups has another count.
        let counts = counts();
        let is_subscriber =
            self.tables.that_decide().into_iter().any(|table| subscription::has(table.table));
        FOUND.set(Some(Found { counts, is_subscriber }));
        is_subscriber
    }
}

/// Our tables may be others after an invalidation, too.
#[inline]
fn counts() -> [u64; 2] {
    [CHANGES.load(Relaxed), invalidation::changes()]
}
