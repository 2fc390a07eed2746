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
use pg::output;
use pg::result_set::{Cell, ResultSet};
use pg::server;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;
use std::borrow::Cow;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

sql_functions! {
    keysmith_usage_status => usage_status;
    keysmith_flush_usage => flush_usage;
}

const LONGEST_WAIT: i128 = 24 * 60 * 60 * 1_000_000;

/// Values that are read under the lock, and reported afterwards.
struct View {
    used: u32,
    count: u32,
    counters: Counters,
    worker: WorkerState,
    unknown_seen: u64,
    unknown_stored: u64,
}

/// The memory of each standby, as the tables on the primary have it. A standby that is gone for
/// good has lost the records that it held. If several have the same name, the identity follows it.
const STANDBYS: &str = "
    SELECT pg_catalog.concat_ws(' ', 'standby', i.node_name,
               CASE WHEN pg_catalog.count(*) OVER (PARTITION BY i.node_name) > 1 THEN i.node END),
           pg_catalog.format('last heard of %s; can hold %s records',
                             coalesce(i.last_flush_at, i.started_at), i.most_waiting)
    FROM (SELECT DISTINCT ON (l.node) l.* FROM keysmith_private.usage_incarnation AS l
          WHERE l.database = $1
          ORDER BY l.node, l.incarnation DESC) AS i
    WHERE i.lost_at_most IS NULL AND i.primary_since IS NULL
    ORDER BY i.node_name, i.node";

fn usage_status(call: &Call) -> Result<Option<Datum>> {
    let mut rows: Vec<(Cow<str>, Option<String>)> = Vec::new();
    match worker_slot::find_place() {
        None => {
            let why = if crate::usage::queue::queue().is_none() {
                "in place: the library is not preloaded"
            } else {
                "in place: other databases take all places"
            };
            rows.push(("mode".into(), Some(why.into())));
            let dropped = LOST_HERE.load(Relaxed).to_string();
            rows.push(("dropped_by_this_session".into(), Some(dropped)));
        }
        Some((queue, place)) => describe(queue, place, &mut rows),
    }
    authority::look(Needs::Nothing, |_| {
        spi::query(
            "SELECT pg_catalog.count(*)::text, pg_catalog.sum(lost_at_most)::text,
                    pg_catalog.min(lost_from)::text, pg_catalog.max(lost_until)::text
             FROM keysmith_private.usage_incarnation WHERE lost_at_most IS NOT NULL",
            &[],
            |losses| {
                let names = ["losses", "lost_at_most", "lost_from", "lost_until"];
                for row in losses.iter() {
                    let values = (1..).zip(names).map(|(n, name)| (name.into(), row.text(n)));
                    rows.extend(values);
                }
            },
        )?;
        rows.extend(spi::all(STANDBYS, &[Param::oid(server::my_database())], |row| {
            Some((row.text(1).unwrap_or_default().into(), row.text(2)))
        })?);
        Ok(())
    })?;
    let result = ResultSet::of(call);
    for (name, value) in rows {
        result.put([Cell::text(&name), Cell::text_or_null(value.as_deref())]);
    }
    Ok(None)
}

fn describe(queue: &Queue, place: usize, rows: &mut Vec<(Cow<str>, Option<String>)>) {
    let view = queue.locked(|state| {
        let used = queue.waiting();
        state.databases.get(place).map(|database| View {
            used,
            count: database.records.count + database.backlog,
            counters: database.counters,
            worker: database.worker,
            unknown_seen: database.unknown.seen,
            unknown_stored: database.unknown.stored,
        })
    });
    let Some(view) = view else { return };
    let signals = queue.signals.get(place);
    let running = signals.map_or(0, |signals| signals.worker.load(SeqCst));
    let pending = signals.map_or(0, |signals| signals.pending.load(SeqCst));
    let counters = view.counters;
    let error = view.worker.last_error;
    let error = error.split(|byte| *byte == 0).next().unwrap_or_default();
    let error = String::from_utf8_lossy(error).into_owned();
    let mode = match (subscription::is_subscriber(), server::is_in_recovery(), is_kept_here()) {
        (false, false, _) => "shared memory",
        (true, _, true) => "shared memory, handed to the publisher",
        (true, _, false) => "not logged: the database is a subscriber that hands over nothing",
        (false, true, true) => "shared memory, handed to the primary",
        (false, true, false) => "not logged: the server is a standby that hands over nothing",
    };
    let worker = match running {
        worker_slot::RUNNING => "running",
        worker_slot::STARTING => "starting",
        _ => "none, none is needed",
    };
    let shown = |n: u64| Some(n.to_string());
    let described = [
        ("mode", Some(mode.into())),
        ("node", Some(hex::encode(queue.node))),
        ("incarnation", Some(queue.incarnation.to_string())),
        ("since", Some(output::timestamp(queue.incarnation))),
        ("capacity", shown(queue.capacity.into())),
        ("share", shown(queue.share.into())),
        ("used", shown(view.used.into())),
        ("waiting", shown(view.count.into())),
        ("held", shown(pending.into())),
        ("accepted", shown(counters.accepted)),
        ("stored", shown(counters.stored)),
        ("amendments", shown(counters.amendments)),
        ("amendments_unmatched", shown(counters.unmatched)),
        ("written_through", shown(counters.written_through)),
        ("dropped", shown(counters.dropped)),
        ("discarded", shown(counters.discarded)),
        ("not_logged", shown(counters.not_logged)),
        ("set_aside", shown(counters.quarantined)),
        ("unknown", shown(view.unknown_seen)),
        ("unknown_stored", shown(view.unknown_stored)),
        ("worker", Some(worker.into())),
        ("worker_pid", (view.worker.pid != 0).then(|| view.worker.pid.to_string())),
        ("failed_starts", shown(counters.failed_starts)),
        ("failures", shown(counters.failed_batches)),
        ("last_error", (!error.is_empty()).then_some(error)),
        (
            "last_flush",
            (view.worker.last_flush != 0).then(|| output::timestamp(view.worker.last_flush)),
        ),
    ];
    rows.extend(described.map(|(name, value)| (Cow::from(name), value)));
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
                database.worker.asked |= !is_done;
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
