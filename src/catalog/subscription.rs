//! Whether this database is a subscriber: it receives rows that decide about keys by logical
//! replication. Nobody else may change these rows.

use super::Catalog;
use super::columns::heartbeat;
use super::invalidation;
use pg::error::{Code, Error, Result};
use pg::scan::{Room, Snapshot};
use pg::spi::{self, Param};
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pg::{lookup, subscription, transaction};
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

trigger_functions! {
    keysmith_refuse_on_subscriber => refuse_on_subscriber;
}

/// How many invalidations of subscriptions this session has processed.
static CHANGES: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// What was found, and the counts of changes before.
#[derive(Clone, Copy)]
struct Found {
    counts: [u64; 2],
    /// A table that decides about keys and that a subscription has.
    table: Option<Oid>,
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
        Some(found) if found.counts == counts() => found.table.is_some(),
        found => look_again(found),
    }
}

#[cold]
fn look_again(known: Option<Found>) -> bool {
    if transaction::is_in_progress() {
        return Catalog::open().is_ok_and(|catalog| catalog.is_subscriber());
    }
    known.is_some_and(|found| found.table.is_some())
}

impl Catalog {
    /// Whether a subscription has one of the tables that decide about keys, even if the
    /// subscription is disabled. Reads catalogs only after a change.
    #[inline]
    pub fn is_subscriber(&self) -> bool {
        self.subscription().table.is_some()
    }

    /// Checks that the rows that decide about keys are this database's to change.
    pub fn must_not_be_subscriber(&self) -> Result<()> {
        self.subscription().table.map_or(Ok(()), |table| Err(refusal(table)?))
    }

    /// The publisher's newest heartbeat that a snapshot sees; `None` if no heartbeat tells how old
    /// the tables are.
    pub fn heartbeat(&self, snapshot: &Snapshot) -> Option<i64> {
        if !self.subscription().has_heartbeat {
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
        let deciding = self.tables.that_decide().map(|table| table.table);
        let table = deciding.into_iter().find(|table| subscription::has(*table));
        let found = Found { counts, table, has_heartbeat: self.has_heartbeat() };
        FOUND.set(Some(found));
        found
    }

    /// Whether the publisher's heartbeat tells how old all the tables are that decide about keys:
    /// all come by one subscription, together with it, and the first copy of each has ended.
    fn has_heartbeat(&self) -> bool {
        let [beat] = *subscription::of(self.tables.heartbeat.table) else { return false };
        let mut deciding = self.tables.that_decide().into_iter();
        beat.is_ready
            && deciding.all(|table| subscription::of(table.table).iter().all(|one| *one == beat))
    }
}

/// Our tables may be others after an invalidation, too.
#[inline]
pub fn counts() -> [u64; 2] {
    [CHANGES.load(Relaxed), invalidation::changes()]
}

/// The trigger on the tables that are managed. It refuses changes if a subscription has the table,
/// or the table of the same schema that its argument names.
fn refuse_on_subscriber(call: Option<&TriggerCall>) -> Result<Returned> {
    let trigger = call.ok_or_else(|| {
        Error::new(Code::InvalidArgument, "refuse_on_subscriber can be called by triggers alone")
    })?;
    let schema = trigger.relation().class(|class| class.relnamespace);
    let named = trigger.arguments().first().and_then(|name| lookup::relation(schema, name));
    let table = named.unwrap_or_else(|| trigger.relation().oid());
    if subscription::has(table) { Err(refusal(table)?) } else { Ok(Returned::nothing()) }
}

/// The error for a change of what a subscription brings.
pub fn refusal(table: Oid) -> Result<Error> {
    let name = spi::session(|| {
        spi::first(
            "SELECT s.subname::text FROM pg_catalog.pg_subscription s
             JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
             WHERE r.srrelid = $1 LIMIT 1",
            &[Param::oid(table)],
            |row| row.text(1),
        )
    })?;
    let name = name.unwrap_or_default();
    let message = format!("this database is a subscriber: its keys come by subscription {name:?}");
    Ok(Error::new(Code::Conflict, message).hint("Manage them on the publisher."))
}
