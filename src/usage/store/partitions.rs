//! The partitions of requests, a day each: found by time, and made where one is missing.

use crate::catalog::PRIVATE;
use crate::usage::queue::queue;
use crate::usage::session::worker_slot;
use crate::usage::store::rows::EVENT;
use keysmith_core::event::Record;
use pg::call::{Call, sql_functions};
use pg::clock::monotonic;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pgrx::pg_sys::{self, Datum, Oid};
use std::collections::BTreeSet;
use std::ffi::CStr;

sql_functions! {
    keysmith_usage_has_partition => usage_has_partition;
    keysmith_usage_fold_lock => usage_fold_lock;
}

/// To put rows into partitions, and to look at what there are.
const WRITES: i32 = pg_sys::RowExclusiveLock as i32;
const READS: i32 = pg_sys::AccessShareLock as i32;
/// In microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// How long to wait for a worker that makes partitions.
const WAIT: i64 = 5_000_000;

/// The partitioned table, open. An error that PostgreSQL raises leaves it to the end of the
/// transaction.
pub struct Parent(pub pg_sys::Relation);

impl Parent {
    /// For writing. `None` if there is no such table, or not one as we make it.
    pub fn open() -> Option<Parent> {
        Parent::locked(WRITES)
    }

    fn locked(mode: i32) -> Option<Parent> {
        let oid = named(c"usage_event")?;
        // SAFETY: PostgreSQL raises an error if the table is gone meanwhile.
        let parent = Parent(unsafe { pg_sys::table_open(oid, mode) });
        // SAFETY: an open relation's description.
        if unsafe { usize::try_from((*(*parent.0).rd_rel).relnatts) } == Ok(EVENT) {
            return Some(parent);
        }
        parent.close();
        None
    }

    /// The transaction keeps the lock until it ends.
    pub fn close(self) {
        // SAFETY: opened above.
        unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) };
    }

    fn leave(self) {
        // SAFETY: opened above, for reading.
        unsafe { pg_sys::table_close(self.0, READS) };
    }

    /// The partition that takes rows of that time.
    pub fn partition_at(&self, at: i64) -> Option<Oid> {
        // SAFETY: PostgreSQL's list of the partitions of an open relation. Bounds are sorted,
        // of one column each; before the first and after each of them is a partition's
        // number, or -1.
        unsafe {
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.0, true);
            let bounds = partitions.boundinfo.as_ref()?;
            let is_after = |n: usize| match **bounds.kind.add(n) {
                pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE => true,
                pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE => false,
                _ => (**bounds.datums.add(n)).value() as i64 <= at,
            };
            let (mut low, mut high) = (0, bounds.ndatums.unsigned_abs() as usize);
            while low < high {
                let middle = usize::midpoint(low, high);
                if is_after(middle) { low = middle + 1 } else { high = middle }
            }
            let number = *bounds.indexes.add(low);
            usize::try_from(number).ok().map(|number| *partitions.oids.add(number))
        }
    }
}

/// The days of these records for which there is no partition.
pub fn missing<'a>(records: impl Iterator<Item = &'a Record<'a>>) -> BTreeSet<i64> {
    let Some(parent) = Parent::locked(READS) else { return BTreeSet::new() };
    let at = |record: &Record| match record {
        Record::Event(event) => Some(event.at),
        Record::Amendment { .. } => None,
    };
    let without = records.filter_map(at).filter(|at| parent.partition_at(*at).is_none());
    let days = without.map(|at| at.div_euclid(DAY)).collect();
    parent.leave();
    days
}

/// Makes the partitions of these days. Others can make none until the transaction ends.
pub fn make(days: &BTreeSet<i64>) -> Result<()> {
    for day in days {
        let date = || Param::date(i32::try_from(*day).ok());
        spi::execute("SELECT keysmith_private.usage_prepare($1, $2)", &[date(), date()])?;
    }
    Ok(())
}

/// Has the worker make partitions, where there is one: this transaction may stay open for as
/// long as its role likes.
pub fn have_made(records: &[(i64, Record)]) -> Result<()> {
    let deadline = monotonic() + WAIT;
    while queue().is_some() {
        let days = missing(records.iter().map(|(_, record)| record));
        let (Some(first), Some(last)) = (days.first(), days.last()) else { break };
        let Some((queue, place)) = worker_slot::find_place() else { break };
        if monotonic() > deadline {
            return Err(Error::new(Code::Conflict, "the worker has not made the partitions yet")
                .hint("See keysmith.usage_status() on the primary."));
        }
        queue.with(place, |database| database.worker.wanted.add(*first, *last));
        worker_slot::call(queue, place);
        pg::latch::rest();
    }
    Ok(())
}

/// One of our tables.
pub fn named(name: &CStr) -> Option<Oid> {
    // SAFETY: look-ups by name, which give InvalidOid if there is none.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(PRIVATE.as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != Oid::INVALID).then_some(oid)
}

fn usage_has_partition(call: &Call) -> Result<Option<Datum>> {
    let Some(parent) = Parent::locked(READS) else { return Ok(Some(Datum::from(false))) };
    let at = call.datum(0).map_or(0, |at| at.value() as i64);
    let is_there = parent.partition_at(at).is_some();
    parent.leave();
    Ok(Some(Datum::from(is_there)))
}

/// An object lock on the table of what is folded, as the audit has for its chains: nobody else
/// can ask for it, and VACUUM does not.
fn usage_fold_lock(_: &Call) -> Result<Option<Datum>> {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    let is_ours = named(c"usage_delta").is_some_and(|table| {
        // SAFETY: a lock that is held until the transaction ends.
        unsafe { pg_sys::ConditionalLockDatabaseObject(table, table, 0, mode) }
    });
    Ok(Some(Datum::from(is_ours)))
}
