//! How usage records fare, and waiting for them.

use super::authority;
use super::level::Needs;
use crate::catalog::subscription;
use crate::usage::queue::Queue;
use crate::usage::queue::shared::{Counters, WorkerState};
use crate::usage::session::overflow::is_kept_here;
use crate::usage::session::pending;
use crate::usage::session::worker_slot;
use crate::usage::session::worker_slot::LOST_HERE;
use pg::call::{Call, sql_functions};
use pg::clock::monotonic;
use pg::error::{Code, Error, Result};
use pg::result_set::{Cell, ResultSet};
use pg::server;
use pg::spi;
use pgrx::pg_sys::Datum;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

sql_functions! {
    keysmith_usage_status => usage_status;
    keysmith_flush_usage => flush_usage;
}

const LONGEST_WAIT: i128 = 24 * 60 * 60 * 1_000_000;

/// What shared memory knows.
struct View {
    oldest_at: Option<i64>,
    waiting: u32,
    counters: Counters,
    worker: WorkerState,
    unknown_seen: u64,
    unknown_stored: u64,
}

impl View {
    fn of(queue: &Queue, place: usize) -> Option<View> {
        let (oldest_at, view) = queue.oldest_and(place, |database| View {
            // Records of earlier incarnations have waited since before the start.
            oldest_at: (database.backlog > 0).then_some(queue.incarnation),
            waiting: database.records.count + database.backlog,
            counters: database.counters,
            worker: database.worker,
            unknown_seen: database.unknown.seen,
            unknown_stored: database.unknown.stored,
        })?;
        Some(View { oldest_at: view.oldest_at.or(oldest_at), ..view })
    }
}

/// The losses that the tables have: how many, of how many records at most, from when until when.
#[derive(Default)]
struct Losses {
    count: Option<i64>,
    at_most: Option<i64>,
    from: Option<i64>,
    until: Option<i64>,
}

impl Losses {
    fn read() -> Result<Losses> {
        let losses = spi::first(
            "SELECT pg_catalog.count(*), pg_catalog.sum(lost_at_most)::bigint,
                    pg_catalog.min(lost_from), pg_catalog.max(lost_until)
             FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL",
            &[],
            |row| {
                Some(Losses {
                    count: row.bigint(1),
                    at_most: row.bigint(2),
                    from: row.timestamp(3),
                    until: row.timestamp(4),
                })
            },
        )?;
        Ok(losses.unwrap_or_default())
    }
}

fn usage_status(call: &Call) -> Result<Option<Datum>> {
    let found = worker_slot::find_place();
    let queue = found.map(|(queue, _)| queue);
    let view = found.and_then(|(queue, place)| View::of(queue, place));
    let view = view.as_ref();
    let signals = found.and_then(|(queue, place)| queue.signals.get(place));
    let losses = authority::look(Needs::Nothing, |_| Losses::read())?;

    let counters = view.map(|view| view.counters);
    let count = |n: Option<u64>| Cell::bigint(n.map(|n| n as i64));
    let counted = |of: fn(&Counters) -> u64| count(counters.as_ref().map(of));
    let moment = |at: Option<i64>| Cell::timestamp(at.filter(|at| *at != 0));
    let error = view.map(|view| view.worker.last_error);
    let error = error.as_ref().map(|error| {
        String::from_utf8_lossy(error.split(|byte| *byte == 0).next().unwrap_or_default())
    });
    let node = queue.map(|queue| hex::encode(queue.node));
    let worker = signals.map(|signals| match signals.worker.load(SeqCst) {
        worker_slot::RUNNING => "running",
        worker_slot::STARTING => "starting",
        _ => "none",
    });
    let dropped = counters.map_or_else(|| LOST_HERE.load(Relaxed), |counters| counters.dropped);
    ResultSet::of(call).put([
        Cell::text(mode(queue.is_some())),
        Cell::text_or_null(node.as_deref()),
        Cell::bigint(queue.map(|queue| queue.incarnation)),
        Cell::timestamp(queue.map(|queue| queue.incarnation)),
        Cell::integer(queue.map(|queue| queue.capacity as i32)),
        Cell::integer(queue.map(|queue| queue.share as i32)),
        Cell::integer(queue.map(|queue| queue.waiting() as i32)),
        Cell::bigint(view.map(|view| view.waiting.into())),
        Cell::integer(signals.map(|signals| signals.pending.load(SeqCst) as i32)),
        counted(|counters| counters.accepted),
        counted(|counters| counters.stored),
        counted(|counters| counters.amendments),
        counted(|counters| counters.unmatched),
        counted(|counters| counters.written_through),
        count(Some(dropped)),
        moment(counters.map(|counters| counters.last_dropped_at)),
        counted(|counters| counters.discarded),
        counted(|counters| counters.not_logged),
        counted(|counters| counters.quarantined),
        count(view.map(|view| view.unknown_seen)),
        count(view.map(|view| view.unknown_stored)),
        Cell::text_or_null(worker),
        Cell::integer(view.map(|view| view.worker.pid).filter(|pid| *pid != 0)),
        counted(|counters| counters.failed_starts),
        counted(|counters| counters.failed_batches),
        Cell::text_or_null(error.as_deref().filter(|error| !error.is_empty())),
        moment(view.map(|view| view.worker.last_error_at)),
        moment(view.map(|view| view.worker.last_flush)),
        Cell::timestamp(view.and_then(|view| view.oldest_at)),
        Cell::bigint(losses.count),
        Cell::bigint(losses.at_most),
        Cell::timestamp(losses.from),
        Cell::timestamp(losses.until),
    ]);
    Ok(None)
}

fn mode(has_place: bool) -> &'static str {
    if crate::usage::queue::queue().is_none() {
        return "in place: the library is not preloaded";
    }
    if !has_place {
        return "in place: other databases take all places";
    }
    match (subscription::is_subscriber(), server::is_in_recovery(), is_kept_here()) {
        (false, false, _) => "shared memory",
        (true, _, true) => "shared memory, handed to the publisher",
        (true, _, false) => "not logged: the database is a subscriber that hands over nothing",
        (false, true, true) => "shared memory, handed to the primary",
        (false, true, false) => "not logged: the server is a standby that hands over nothing",
    }
}

fn flush_usage(call: &Call) -> Result<Option<Datum>> {
    let timeout = call.interval(0, "timeout")?;
    let length = i128::from(timeout.time)
        + (i128::from(timeout.day) + 30 * i128::from(timeout.month)) * 86_400_000_000;
    if !(0..=LONGEST_WAIT).contains(&length) {
        return Err(Error::argument("timeout", "must be from 0 to 24 hours"));
    }
    pending::hand_on();
    let Some((queue, place)) = worker_slot::find_place() else { return Ok(None) };
    if !is_kept_here() {
        return Ok(None);
    }
    let target = queue.with(place, |database| (database.records.sequence, database.unknown.seen));
    let Some((sequence, seen)) = target else { return Ok(None) };
    let deadline = i128::from(monotonic()) + length;
    loop {
        // A standby keeps records until it has replayed that they are stored. The snapshot of
        // this call may hold up that replay. So the primary's acknowledgement is enough.
        let acknowledged =
            queue.signals.get(place).map(|signals| signals.acknowledged.load(SeqCst));
        let is_acknowledged = acknowledged.is_some_and(|newest| newest >= sequence);
        let (is_done, waiting) = queue
            .with(place, |database| {
                let is_done = (database.records.done >= sequence
                    || database.records.count == 0
                    || is_acknowledged)
                    && database.backlog == 0
                    && database.unknown.stored >= seen;
                // Others who wait ask again.
                database.worker.asked = !is_done;
                (is_done, database.records.count + database.backlog)
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
        worker_slot::call(queue, place);
        pg::latch::rest();
    }
}
