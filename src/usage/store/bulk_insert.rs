//! Puts the worker's rows straight into the partitions of their days, and what they add to the
//! totals into `usage_delta`, as the triggers would.
//!
//! Rows are left to an `INSERT` if the tables are not as the extension makes them: with another
//! trigger, a disabled one, or a day without its partition.

use crate::usage::store::partitions::{named, with_events};
use crate::usage::store::rows;
use keysmith_core::event::Event;
use keysmith_core::tally::Tally;
use pg::bulk::{can_fill, fill};
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

/// Stores events. Returns those that must be inserted by a statement.
pub fn store<'a>(events: &'a [Numbered<'a>], incarnation: i64) -> Vec<&'a Numbered<'a>> {
    let stored = named(c"usage_delta").zip(Others::find()).and_then(|(deltas, others)| {
        with_events(WRITES, Lock::Kept, |parent| {
            with_table(deltas, WRITES, Lock::Kept, |deltas| {
                let is_as_made = counts_inserts(parent)
                    && !parent.has_rules()
                    && !parent.has_row_security()
                    && takes(deltas, &rows::DELTA)
                    && with_table(others.units, WRITES, Lock::Kept, |table| {
                        takes(table, &rows::UNIT_DELTA)
                    })
                    && with_table(others.tags, WRITES, Lock::Kept, |table| {
                        takes(table, &rows::TAG_DELTA)
                    });
                is_as_made.then(|| put_all(parent, deltas, others, events, incarnation))
            })
        })
    });
    stored.flatten().unwrap_or_else(|| events.iter().collect())
}

/// The tables of deltas that most batches add nothing to.
#[derive(Clone, Copy)]
struct Others {
    units: Oid,
    tags: Oid,
}

impl Others {
    fn find() -> Option<Others> {
        Some(Others { units: named(c"usage_unit_delta")?, tags: named(c"usage_tag_delta")? })
    }
}

/// Whether a table of deltas takes rows with these columns. A trigger that somebody put on it must
/// fire.
fn takes<const N: usize>(table: RelationView<'_>, columns: &[Oid; N]) -> bool {
    let fires = |trigger: &Trigger| trigger.fires && trigger.is_for_inserts();
    !table.triggers().iter().any(fires) && can_fill(table, columns)
}

fn put_all<'a>(
    parent: RelationView<'_>,
    deltas: RelationView<'_>,
    others: Others,
    events: &'a [Numbered<'a>],
    incarnation: i64,
) -> Vec<&'a Numbered<'a>> {
    let mut groups: BTreeMap<Option<u32>, Vec<&Numbered>> = BTreeMap::new();
    for event in events {
        let partition = parent.partition_at(event.1.at).map(Oid::to_u32);
        groups.entry(partition).or_default().push(event);
    }
    let mut tally = Tally::default();
    let mut left = Vec::new();
    for (partition, events) in groups {
        if partition.is_some_and(|oid| put(parent, oid.into(), &events, incarnation)) {
            let now = now();
            events.iter().for_each(|(_, event)| tally.add(event, now));
        } else {
            left.extend(events);
        }
    }
    let (units, tags) = (tally.take_units(), tally.take_tags());
    let groups = tally.into_sorted();
    let rows = groups.iter().map(|(group, counts)| rows::delta(group, counts));
    if !fill(deltas, &rows::DELTA, rows) {
        pgrx::error!("keysmith_private.usage_delta has changed");
    }
    if !units.is_empty() {
        let rows = units.iter().map(|(unit, amount)| rows::unit_delta(unit, *amount));
        let is_filled = with_table(others.units, WRITES, Lock::Kept, |table| {
            fill(table, &rows::UNIT_DELTA, rows)
        });
        if !is_filled {
            pgrx::error!("keysmith_private.usage_unit_delta has changed");
        }
    }
    if !tags.is_empty() {
        let rows = tags.iter().map(|(tag, counts)| rows::tag_delta(tag, counts));
        let is_filled = with_table(others.tags, WRITES, Lock::Kept, |table| {
            fill(table, &rows::TAG_DELTA, rows)
        });
        if !is_filled {
            pgrx::error!("keysmith_private.usage_tag_delta has changed");
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
