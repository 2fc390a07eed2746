//! Puts the worker's rows straight into the partitions of their days, and counts what they add to the
//! totals, as the triggers would.
//!
//! Rows are left to an `INSERT` if the tables are not as the extension makes them: with another
//! trigger, a disabled one, or a day without its partition.

use crate::usage::store::deltas;
use crate::usage::store::partitions::with_events;
use crate::usage::store::rows;
use keysmith_core::event::Event;
use keysmith_core::tally::Tally;
use pg::bulk::fill;
use pg::clock::now;
use pg::lock::Mode;
use pg::relation::RelationView;
use pg::table::{Lock, with_table};
use pg::table_trigger::Trigger;
use pgrx::pg_sys::Oid;
use std::collections::BTreeMap;
use std::ffi::CStr;

type Numbered<'a> = (i64, Event<'a>);

/// The trigger that counts what is inserted, on the parent and on each partition.
const COUNTS: &CStr = c"usage_inserted";

const WRITES: Mode = Mode::RowExclusive;

/// Stores events, and counts them. Returns the places of those that must be inserted by a statement.
pub fn store<'a>(events: &[Numbered<'a>], incarnation: i64, tally: &mut Tally<'a>) -> Vec<usize> {
    let stored = with_events(WRITES, Lock::Kept, |parent| {
        let is_as_made = counts_inserts(parent)
            && !parent.has_rules()
            && !parent.has_row_security()
            && deltas::are_plain();
        is_as_made.then(|| put_all(parent, events, incarnation, tally))
    });
    stored.flatten().unwrap_or_else(|| (0..events.len()).collect())
}

fn put_all<'a>(
    parent: RelationView<'_>,
    events: &[Numbered<'a>],
    incarnation: i64,
    tally: &mut Tally<'a>,
) -> Vec<usize> {
    let mut groups: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for (n, (_, event)) in events.iter().enumerate() {
        let partition = parent.partition_at(event.at).map(Oid::to_u32);
        groups.entry(partition).or_default().push(n);
    }
    let mut left = Vec::new();
    for (partition, places) in groups {
        let of_partition: Vec<_> = places.iter().filter_map(|n| events.get(*n)).collect();
        if partition.is_some_and(|oid| put(parent, oid.into(), &of_partition, incarnation)) {
            let now = now();
            of_partition.iter().for_each(|(_, event)| tally.add(event, now));
        } else {
            left.extend(places);
        }
    }
    left
}

/// Puts events into their partition. False if that can't be done.
fn put(parent: RelationView<'_>, partition: Oid, events: &[&Numbered], incarnation: i64) -> bool {
    with_table(partition, WRITES, Lock::Kept, |table| {
        let rows =
            events.iter().map(|(sequence, event)| rows::event(event, incarnation, *sequence));
        // A partition that is being restored gets its trigger last.
        counts_inserts(table) && table.is_laid_out_as(parent) && fill(table, &rows::EVENT, rows)
    })
}

/// Whether the trigger that counts is enabled, and an insert fires no other.
fn counts_inserts(table: RelationView<'_>) -> bool {
    let mut inserts = table.triggers();
    // One is for subscriptions alone.
    let counts = |trigger: &Trigger| *trigger.name == *COUNTS;
    inserts.retain(|trigger| trigger.is_for_inserts() && (trigger.fires || counts(trigger)));
    matches!(&inserts[..], [only] if only.fires && counts(only))
}
