//! The worker's rows go straight into the partitions of their days, and what they add to
//! the totals into `usage_delta`, as the triggers would put it there.
//!
//! Where the tables are not as we make them (a trigger more, or one that is disabled, a
//! day without its partition), rows are left to the usual statement, which does
//! whatever PostgreSQL would.

use crate::usage::store::bulk::Table;
use crate::usage::store::partitions::{Parent, named};
use crate::usage::store::rows::{self, DELTA, Texts};
use keysmith_core::event::Event;
use keysmith_core::tally::Tally;
use pg::clock::now;
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeMap;
use std::ffi::CStr;

type Numbered<'a> = (i64, Event<'a>);

/// The trigger that counts what is inserted, on the parent and on each partition.
const COUNTS: &CStr = c"usage_inserted";

/// Stores events of the queue, and gives back those that must go another way.
pub fn store<'a>(events: &'a [Numbered<'a>], incarnation: i64) -> Vec<&'a Numbered<'a>> {
    let everything = || events.iter().collect();
    let Some(parent) = Parent::open() else { return everything() };
    // SAFETY: an open relation.
    let Some(deltas) = (unsafe { is_as_made(parent.0) }).then(deltas).flatten() else {
        parent.close();
        return everything();
    };
    let mut groups: BTreeMap<Option<u32>, Vec<&Numbered>> = BTreeMap::new();
    for event in events {
        let partition = parent.partition_at(event.1.at).map(Oid::to_u32);
        groups.entry(partition).or_default().push(event);
    }
    let mut tally = Tally::default();
    let mut left = Vec::new();
    for (partition, events) in groups {
        if partition.is_some_and(|oid| put(&parent, oid.into(), &events, incarnation)) {
            let now = now();
            events.iter().for_each(|(_, event)| tally.add(event, now));
        } else {
            left.extend(events);
        }
    }
    let groups = tally.into_sorted();
    let mut texts = Texts::default();
    let rows: Vec<_> =
        groups.iter().map(|(group, counts)| rows::delta(group, counts, &mut texts)).collect();
    deltas.insert(&rows);
    deltas.close();
    parent.close();
    left
}

/// The table of what changed, unless somebody wants to know of its rows.
fn deltas() -> Option<Table<DELTA>> {
    let table = Table::open(named(c"usage_delta")?)?;
    // SAFETY: an open relation's description.
    if unsafe { (*table.relation()).trigdesc.is_null() } {
        return Some(table);
    }
    table.close();
    None
}

/// Whether a statement that inserts rows would do no more than to route them, and to count
/// them.
///
/// # Safety
/// The relation must be open.
unsafe fn is_as_made(parent: pg_sys::Relation) -> bool {
    // SAFETY: an open relation's description.
    unsafe {
        let class = (*parent).rd_rel;
        !(*class).relhasrules && !(*class).relrowsecurity && counts_inserts(parent)
    }
}

/// Puts events into their partition. False where that can't be done.
fn put(parent: &Parent, partition: Oid, events: &[&Numbered], incarnation: i64) -> bool {
    let Some(table) = Table::open(partition) else { return false };
    // SAFETY: the descriptions of open relations. There is no map where columns are in the
    // same order.
    let is_as_made = unsafe {
        let (from, to) = ((*parent.0).rd_att, (*table.relation()).rd_att);
        // A partition that is being restored has its trigger last.
        counts_inserts(table.relation()) && pg_sys::convert_tuples_by_name(from, to).is_null()
    };
    if is_as_made {
        let mut texts = Texts::default();
        let rows: Vec<_> = events
            .iter()
            .map(|(sequence, event)| rows::event(event, incarnation, *sequence, &mut texts))
            .collect();
        table.insert(&rows);
    }
    table.close();
    is_as_made
}

/// Whether a table has the trigger that counts what is inserted, enabled, and no other
/// that inserts would fire.
///
/// # Safety
/// The relation must be open.
unsafe fn counts_inserts(relation: pg_sys::Relation) -> bool {
    const INSERT: i16 = pg_sys::TRIGGER_TYPE_INSERT as i16;
    const ENABLED: [u8; 2] = [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS];
    // SAFETY: an open relation's description.
    unsafe {
        let triggers = (*relation).trigdesc;
        if triggers.is_null() {
            return false;
        }
        let count = (*triggers).numtriggers as usize;
        let all = std::slice::from_raw_parts((*triggers).triggers, count);
        let mut inserts = all.iter().filter(|trigger| trigger.tgtype & INSERT != 0);
        let counts = inserts.next().is_some_and(|trigger| {
            CStr::from_ptr(trigger.tgname) == COUNTS && ENABLED.contains(&(trigger.tgenabled as u8))
        });
        counts && inserts.next().is_none()
    }
}
