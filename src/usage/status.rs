//! How usage records fare, and waiting for them.

use super::ring::{Counters, Ring, WorkerPlace};
use super::{LOST_HERE, held, is_kept_here, lives, presence};
use crate::call::{Call, sql_functions};
use crate::clock::monotonic;
use crate::error::{Code, Error, Result};
use crate::manage::authority::{self, Needs};
use crate::manage::sql;
use crate::result_set::ResultSet;
use crate::text;
use pgrx::pg_sys::{self, Datum};
use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

sql_functions! {
    keysmith_usage_status => usage_status;
    keysmith_flush_usage => flush_usage;
}

const LONGEST_WAIT: i128 = 24 * 60 * 60 * 1_000_000;

/// What is looked at under the lock, to be told of afterwards.
struct View {
    used: u32,
    count: u32,
    counters: Counters,
    worker: WorkerPlace,
    unknown_seen: u64,
    unknown_stored: u64,
}

/// What the books tell of each standby's memory; a standby that is gone for good took with it
/// what it held.
const STANDBYS: &str = "
    SELECT pg_catalog.format('standby %s', i.standby),
           pg_catalog.format('last heard of %s; can hold %s records',
                             coalesce(i.last_flush_at, i.started_at), i.most_waiting)
    FROM (SELECT DISTINCT ON (l.standby) l.* FROM keysmith_private.usage_incarnation AS l
          WHERE l.standby <> '' AND l.database = $1
          ORDER BY l.standby, l.incarnation DESC) AS i
    WHERE i.lost_at_most IS NULL
    ORDER BY i.standby";

fn usage_status(call: &Call) -> Result<Option<Datum>> {
    let mut rows: Vec<(Cow<str>, Option<String>)> = Vec::new();
    match presence::find_place() {
        None => {
            let why = if super::ring::ring().is_none() {
                "in place: the library is not preloaded"
            } else {
                "in place: other databases take all places"
            };
            rows.push(("mode".into(), Some(why.into())));
            let dropped = LOST_HERE.load(Relaxed).to_string();
            rows.push(("dropped_by_this_session".into(), Some(dropped)));
        }
        Some((ring, place)) => describe(ring, place, &mut rows),
    }
    authority::look(Needs::Nothing, |_| {
        let found = sql::query(
            "SELECT pg_catalog.count(*)::text, pg_catalog.sum(lost_at_most)::text,
                    pg_catalog.min(lost_from)::text, pg_catalog.max(lost_until)::text
             FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL",
            &[],
        )?;
        if let Some(row) = found.first() {
            for (column, name) in
                ["losses", "lost_at_most", "lost_from", "lost_until"].into_iter().enumerate()
            {
                rows.push((name.into(), row.text(column + 1)));
            }
        }
        for row in sql::query(STANDBYS, &[lives::oid(lives::my_database())])?.iter() {
            rows.push((row.text(1).unwrap_or_default().into(), row.text(2)));
        }
        Ok(())
    })?;
    // SAFETY: the function is declared to return a set of two texts.
    let result = unsafe { ResultSet::of(call) };
    for (name, value) in rows {
        // SAFETY: as above.
        unsafe { result.put([Some(text::datum(&name)), value.as_deref().map(text::datum)]) };
    }
    Ok(None)
}

fn describe(ring: &Ring, place: usize, rows: &mut Vec<(Cow<str>, Option<String>)>) {
    let view = ring.locked(|state| {
        let used = ring.waiting();
        state.databases.get(place).map(|database| View {
            used,
            count: database.count,
            counters: database.counters,
            worker: database.worker,
            unknown_seen: database.unknown.seen,
            unknown_stored: database.unknown.stored,
        })
    });
    let Some(view) = view else { return };
    let signals = ring.signals.get(place);
    let presence = signals.map_or(0, |signals| signals.worker.load(SeqCst));
    let held = signals.map_or(0, |signals| signals.held.load(SeqCst));
    let counters = view.counters;
    let error = view.worker.last_error;
    let error = error.split(|byte| *byte == 0).next().unwrap_or_default();
    let error = String::from_utf8_lossy(error).into_owned();
    // SAFETY: asks for the server's state.
    let is_standby = unsafe { pg_sys::RecoveryInProgress() };
    let mode = match (is_standby, is_kept_here()) {
        (false, _) => "shared memory",
        (true, true) => "shared memory, handed to the primary",
        (true, false) => "not logged: the server is a standby that hands over nothing",
    };
    let worker = match presence {
        presence::RUNNING => "running",
        presence::STARTING => "starting",
        _ => "none, none is needed",
    };
    let shown = |n: u64| Some(n.to_string());
    let described = [
        ("mode", Some(mode.into())),
        ("incarnation", Some(ring.incarnation.to_string())),
        ("since", Some(moment(ring.incarnation))),
        ("capacity", shown(ring.capacity.into())),
        ("share", shown(ring.share.into())),
        ("used", shown(view.used.into())),
        ("waiting", shown(view.count.into())),
        ("held", shown(held.into())),
        ("accepted", shown(counters.accepted)),
        ("stored", shown(counters.stored)),
        ("amendments", shown(counters.amendments)),
        ("amendments_unmatched", shown(counters.unmatched)),
        ("written_through", shown(counters.written_through)),
        ("dropped", shown(counters.dropped)),
        ("discarded", shown(counters.discarded)),
        ("not_logged", shown(counters.not_logged)),
        ("set_aside", shown(counters.set_aside)),
        ("unknown", shown(view.unknown_seen)),
        ("unknown_stored", shown(view.unknown_stored)),
        ("worker", Some(worker.into())),
        ("worker_pid", (view.worker.pid != 0).then(|| view.worker.pid.to_string())),
        ("failed_starts", shown(counters.failed_starts)),
        ("failures", shown(counters.failed_batches)),
        ("last_error", (!error.is_empty()).then_some(error)),
        ("last_flush", (view.worker.last_flush != 0).then(|| moment(view.worker.last_flush))),
    ];
    rows.extend(described.map(|(name, value)| (Cow::from(name), value)));
}

fn moment(at: i64) -> String {
    // SAFETY: timestamptz_out takes a timestamp and gives a C string.
    unsafe {
        pgrx::direct_function_call_as_datum(pg_sys::timestamptz_out, &[Some(Datum::from(at))])
            .map_or(String::new(), |shown| {
                CStr::from_ptr(shown.cast_mut_ptr()).to_string_lossy().into_owned()
            })
    }
}

fn flush_usage(call: &Call) -> Result<Option<Datum>> {
    let timeout = call.interval(0, "timeout")?;
    let length = i128::from(timeout.time)
        + (i128::from(timeout.day) + 30 * i128::from(timeout.month)) * 86_400_000_000;
    if !(0..=LONGEST_WAIT).contains(&length) {
        return Err(Error::argument("timeout", "must be from 0 to 24 hours"));
    }
    held::hand_on();
    let Some((ring, place)) = presence::find_place() else { return Ok(None) };
    if !is_kept_here() {
        return Ok(None);
    }
    let target = ring.with(place, |database| (database.sequence, database.unknown.seen));
    let Some((sequence, seen)) = target else { return Ok(None) };
    let deadline = i128::from(monotonic()) + length;
    loop {
        // A standby's records wait for the log to come back, which may wait for whoever
        // holds a snapshot here, as the caller does: what the primary says is enough.
        let acknowledged = ring.signals.get(place).map(|signals| signals.acknowledged.load(SeqCst));
        let is_acknowledged = acknowledged.is_some_and(|newest| newest >= sequence);
        let (is_done, waiting) = ring
            .with(place, |database| {
                let is_done = (database.done >= sequence || database.count == 0 || is_acknowledged)
                    && database.unknown.stored >= seen;
                database.worker.asked |= !is_done;
                (is_done, database.count)
            })
            .unwrap_or((true, 0));
        if is_done {
            return Ok(None);
        }
        if i128::from(monotonic()) >= deadline {
            return Err(Error::new(
                Code::ReplayTimeout,
                format!("usage was not stored in time: {waiting} records wait"),
            )
            .hint("See keysmith.usage_status() for the worker and its last error."));
        }
        presence::call(ring, place);
        rest();
    }
}

/// Ten milliseconds.
pub fn rest() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: our own latch.
    unsafe {
        let latch = pg_sys::MyLatch;
        pg_sys::WaitLatch(latch, events as c_int, 10, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(latch);
    }
    pgrx::check_for_interrupts!();
}
