//! Whether this database is a subscriber: it receives rows that decide about keys by logical
//! replication. Nobody else may change these rows.

use super::Catalog;
use super::invalidation;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pg::{lookup, subscription};
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
}

thread_local! {
    static FOUND: Cell<Option<Found>> = const { Cell::new(None) };
}

impl Catalog {
    /// Whether a subscription has one of the tables that decide about keys, even if the
    /// subscription is disabled. Reads catalogs only after a change.
    #[inline]
    pub fn is_subscriber(&self) -> bool {
        self.subscribed_table().is_some()
    }

    /// Checks that the rows that decide about keys are this database's to change.
    pub fn must_not_be_subscriber(&self) -> Result<()> {
        self.subscribed_table().map_or(Ok(()), |table| Err(refusal(table)?))
    }

    #[inline]
    fn subscribed_table(&self) -> Option<Oid> {
        let counts = counts();
        match FOUND.get() {
            Some(found) if found.counts == counts => found.table,
            _ => self.look_for_subscription(),
        }
    }

    #[cold]
    fn look_for_subscription(&self) -> Option<Oid> {
        if !REGISTERED.swap(true, Relaxed) {
            subscription::on_change(|| {
                CHANGES.fetch_add(1, Relaxed);
            });
        }
        // A change during the look-ups has another count.
        let counts = counts();
        let mut tables = self.tables.that_decide().into_iter().map(|table| table.table);
        let table = tables.find(|table| subscription::has(*table));
        FOUND.set(Some(Found { counts, table }));
        table
    }
}

/// Our tables may be others after an invalidation, too.
#[inline]
fn counts() -> [u64; 2] {
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
