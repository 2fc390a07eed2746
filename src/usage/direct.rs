//! The worker's rows go straight into the partitions of their days, and what they add to
//! the totals into `usage_delta`, as the triggers would put it there.
//!
//! Where the tables are not as we make them (a trigger more, or one that is disabled, a
//! day without its partition), rows are left to the usual statement, which does
//! whatever PostgreSQL would.

use super::bulk::Table;
use super::rows::{self, DELTA, EVENT, Texts};
use super::transaction::now;
use keysmith_core::event::Event;
use keysmith_core::tally::Tally;
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

type Numbered<'a> = (i64, Event<'a>);

const LOCK: i32 = pg_sys::RowExclusiveLock as i32;
/// In microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// The trigger that counts what is inserted, on the parent and on each partition.
const COUNTS: &CStr = c"usage_inserted";

/// Stores events of the ring, and gives back those that must go another way.
pub fn store<'a>(events: &'a [Numbered<'a>], incarnation: i64) -> Vec<&'a Numbered<'a>> {
    let everything = || events.iter().collect();
    let Some(parent) = Parent::open() else { return everything() };
    let Some(deltas) = deltas() else {
        parent.close();
        return everything();
    };
    let mut days: BTreeMap<i64, Vec<&Numbered>> = BTreeMap::new();
    for event in events {
        days.entry(event.1.at.div_euclid(DAY)).or_default().push(event);
    }
    let mut tally = Tally::default();
    let mut left = Vec::new();
    for (day, events) in days {
        if parent.put(day, &events, incarnation) {
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

/// The partitioned table, open.
struct Parent {
    relation: pg_sys::Relation,
}

impl Parent {
    fn open() -> Option<Parent> {
        let oid = named(c"usage_event")?;
        // SAFETY: PostgreSQL raises an error if the table is gone meanwhile.
        let relation = unsafe { pg_sys::table_open(oid, LOCK) };
        let parent = Parent { relation };
        if parent.is_as_made() {
            return Some(parent);
        }
        parent.close();
        None
    }

    /// Whether a statement that inserts rows would do no more than to route them, and to
    /// count them.
    fn is_as_made(&self) -> bool {
        // SAFETY: an open relation's description.
        unsafe {
            let class = (*self.relation).rd_rel;
            usize::try_from((*class).relnatts) == Ok(EVENT)
                && !(*class).relhasrules
                && !(*class).relrowsecurity
                && counts_inserts(self.relation)
        }
    }

    fn close(self) {
        // SAFETY: opened above. The transaction keeps the lock until it ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) };
    }

    /// Puts the events of a day into its partition. False where that can't be done.
    fn put(&self, day: i64, events: &[&Numbered], incarnation: i64) -> bool {
        let Some(table) = self.partition(day) else { return false };
        let mut texts = Texts::default();
        let rows: Vec<_> = events
            .iter()
            .map(|(sequence, event)| rows::event(event, incarnation, *sequence, &mut texts))
            .collect();
        // What lies between two rows of a partition is of the partition as well.
        let dated = || events.iter().zip(&rows);
        let ends = [
            dated().min_by_key(|((_, event), _)| event.at),
            dated().max_by_key(|((_, event), _)| event.at),
        ];
        let is_theirs = ends.iter().flatten().all(|(_, row)| table.is_place_of(row));
        if is_theirs {
            table.insert(&rows);
        }
        table.close();
        is_theirs
    }

    /// The partition that by its name is that of a day, counted from the first of 2000.
    fn partition(&self, day: i64) -> Option<Table<EVENT>> {
        let oid = named(&partition_name(day)?)?;
        // SAFETY: PostgreSQL's list of the partitions of an open relation.
        let is_partition = unsafe {
            let partitions = pg_sys::RelationGetPartitionDesc(self.relation, true);
            (0..(*partitions).nparts as usize).any(|n| *(*partitions).oids.add(n) == oid)
        };
        if !is_partition {
            return None;
        }
        let table = Table::open(oid)?;
        // SAFETY: the descriptions of open relations. There is no map where columns
        // are in the same order.
        let is_as_made = unsafe {
            let (from, to) = ((*self.relation).rd_att, (*table.relation()).rd_att);
            // A partition that is being restored has its trigger last.
            counts_inserts(table.relation()) && pg_sys::convert_tuples_by_name(from, to).is_null()
        };
        if is_as_made {
            return Some(table);
        }
        table.close();
        None
    }
}

fn partition_name(day: i64) -> Option<CString> {
    let julian = i32::try_from(day + i64::from(pg_sys::POSTGRES_EPOCH_JDATE)).ok()?;
    let (mut year, mut month, mut day) = (0, 0, 0);
    // SAFETY: writes three numbers.
    unsafe { pg_sys::j2date(julian, &mut year, &mut month, &mut day) };
    CString::new(format!("usage_{year:04}{month:02}{day:02}")).ok()
}

/// A table of ours.
pub fn named(name: &CStr) -> Option<Oid> {
    // SAFETY: look-ups by name, which give InvalidOid if there is none.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(crate::catalog::PRIVATE.as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != Oid::INVALID).then_some(oid)
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
