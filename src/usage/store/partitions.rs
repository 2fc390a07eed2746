//! The partitions of requests, a day each: found by time, and made where one is missing.

use crate::catalog::PRIVATE;
use crate::usage::queue::queue;
use crate::usage::session::worker_slot;
use crate::usage::store::rows::EVENT;
use keysmith_core::event::Record;
use pg::call::{Call, sql_functions};
use pg::clock::{DAY, monotonic};
use pg::error::{Code, Error, Result};
use pg::lock::{self, Mode};
use pg::lookup;
use pg::relation::RelationView;
use pg::spi::{self, Param};
use pg::table::{Lock, with_table};
use pgrx::pg_sys::{Datum, Oid};
use std::collections::BTreeSet;
use std::ffi::CStr;

sql_functions! {
    keysmith_usage_has_partition => usage_has_partition;
    keysmith_usage_fold_lock => usage_fold_lock;
}

/// How long to wait for a worker that makes partitions, in microseconds.
const WAIT: i64 = 5_000_000;

/// Opens the partitioned table. `None` if there is no such table, or if it has other columns.
pub fn with_events<T>(
    mode: Mode,
    lock: Lock,
    body: impl FnOnce(RelationView<'_>) -> T,
) -> Option<T> {
    with_table(named(c"usage_event")?, mode, lock, |table| {
        table.has_columns(&EVENT).then(|| body(table))
    })
}

fn read<T>(body: impl FnOnce(RelationView<'_>) -> T) -> Option<T> {
    with_events(Mode::AccessShare, Lock::Released, body)
}

/// The days of these times that have no partition.
pub fn missing(times: impl Iterator<Item = i64>) -> BTreeSet<i64> {
    let days = read(|parent| {
        let without = times.filter(|at| parent.partition_at(*at).is_none());
        without.map(|at| at.div_euclid(DAY)).collect()
    });
    days.unwrap_or_default()
}

/// When the requests of these records were.
pub fn times<'a>(records: impl Iterator<Item = &'a Record<'a>>) -> impl Iterator<Item = i64> {
    records.filter_map(|record| match record {
        Record::Event(event) => Some(event.at),
        Record::Amendment { .. } => None,
    })
}

/// Makes the partitions of these days. Other sessions can make none until the transaction ends.
pub fn make(days: &BTreeSet<i64>) -> Result<()> {
    for day in days {
        let date = || Param::date(i32::try_from(*day).ok());
        spi::execute("SELECT keysmith_private.usage_prepare($1, $2)", &[date(), date()])?;
    }
    Ok(())
}

/// Has the worker make partitions, if there is one: the role may leave this transaction open.
pub fn have_made(records: &[(i64, Record)]) -> Result<()> {
    let deadline = monotonic() + WAIT;
    while queue().is_some() {
        let days = missing(times(records.iter().map(|(_, record)| record)));
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

/// A table of the extension.
pub fn named(name: &CStr) -> Option<Oid> {
    lookup::relation(lookup::schema(PRIVATE)?, name)
}

fn usage_has_partition(call: &Call) -> Result<Option<Datum>> {
    let at = call.timestamp(0).unwrap_or_default();
    let partition = read(|parent| parent.partition_at(at)).flatten();
    Ok(Some(Datum::from(partition.is_some())))
}

/// An object lock on the OID of `usage_delta`, as the audit has for its chains. No other role can
/// ask for it, and VACUUM does not.
fn usage_fold_lock(call: &Call) -> Result<Option<Datum>> {
    let waits = call.boolean(0, "waits")?;
    let is_ours = named(c"usage_delta").is_some_and(|table| match waits {
        true => {
            lock::object(table, table, Mode::Exclusive);
            true
        }
        false => lock::try_object(table, table, Mode::Exclusive),
    });
    Ok(Some(Datum::from(is_ours)))
}
