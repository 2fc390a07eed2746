//! Receives records of another server, or of an earlier incarnation of this one. Each is stored
//! once, whoever sends it and however often.
//!
//! A record's name is the incarnation that made it, and its number there. `usage_incarnation` has
//! the number of the newest record that is stored. It changes in the transaction that stores, so
//! it tells what comes a second time.

use crate::catalog::{Catalog, subscription};
use crate::usage::node::Node;
use crate::usage::queue::queue;
use crate::usage::restart::files::IncarnationFile;
use crate::usage::restart::incarnations;
use crate::usage::session::{worker_slot, write_through};
use crate::usage::standby::bounds::{self, MOST_COUNTS, MOST_RECORDS, MOST_SAMPLES};
use crate::usage::standby::load::{Incarnation, Load, Marks};
use crate::usage::store::insert;
use crate::usage::store::partitions;
use crate::usage::store::quarantine;
use crate::usage::store::unknown_rows;
use crate::usage::transaction::{give_way, keep_extension};
use keysmith_core::event::{Event, Learned, MAX_LEN, Record};
use keysmith_core::{lists, parcel, unknown_tally};
use pg::call::{Bytes, Call, must_not_be_null, sql_functions};
use pg::error::{Code, Error, Result};
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param};
use pg::transaction::force_sync_commit;
use pg::{server, text};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_usage_collect => usage_collect;
}

const MOST_NAME: usize = 200;
/// More than a record or a count takes, with its number and length.
const MOST_SIZE: usize = MAX_LEN + 16;

fn usage_collect(call: &Call) -> Result<Option<Datum>> {
    if server::is_in_recovery() {
        return Err(Error::new(Code::Conflict, "usage_collect must be called on the primary")
            .hint("A standby of a standby needs keysmith.usage_conninfo."));
    }
    if subscription::is_subscriber() {
        let message = "usage_collect must be called on the publisher, and this is a subscriber";
        return Err(Error::new(Code::Conflict, message)
            .hint("Its own subscribers need keysmith.usage_conninfo."));
    }
    let standby = call.required_text(0, "standby")?;
    if standby.starts_with(' ') || standby.is_empty() || standby.chars().count() > MOST_NAME {
        let rule = format!("must have from 1 to {MOST_NAME} characters, and no space before them");
        return Err(Error::argument("standby", rule));
    }
    let from = Incarnation {
        node: Node::parse(&standby),
        is_own: false,
        id: number(call, 1, "incarnation")?,
        most_waiting: number(call, 2, "most_waiting")?,
        started_cleanly: call.boolean(3, "started_cleanly")?,
        dropped: number(call, 4, "dropped")?,
    };
    let records = few(records(bytes(call, 5, "records", MOST_RECORDS)?), MOST_RECORDS, "records")?;
    let mut load = Load {
        unknown_mark: number(call, 6, "unknown_mark")?,
        unknown: few(unknown(bytes(call, 7, "unknown", MOST_COUNTS)?), MOST_COUNTS, "unknown")?,
        samples: few(samples(bytes(call, 8, "samples", MOST_SAMPLES)?), MOST_SAMPLES, "samples")?,
        ..Load::default()
    };
    bounds::check(&from, load.unknown_mark)?;
    must_be_of_standby(&from)?;
    leave_to_worker(from.id)?;
    let keeps_extension = keep_extension();
    let marks = Catalog::open()?.as_owner(|| {
        insert::be_brief();
        if !keeps_extension {
            give_way();
        }
        let sorted = bounds::sort(records)?;
        (load.records, load.unfit) = (sorted.fit, sorted.unfit);
        partitions::have_made(&load.records)?;
        receive(&from, &load)
    })?;
    // The sender may forget what is acknowledged.
    force_sync_commit();
    let marks = [marks.last_sequence, marks.unknown_seen];
    ResultSet::of(call).put(marks.map(|mark| Cell::bigint(Some(mark))));
    Ok(None)
}

/// A standby may have an old backlog of this server, from a backup, but nothing newer.
fn must_be_of_standby(from: &Incarnation) -> Result<()> {
    match queue() {
        Some(queue) if queue.incarnation == from.id => {
            Err(Error::argument("incarnation", "must be that of a standby"))
        }
        Some(queue) if queue.incarnation < from.id && from.node.is(queue.node) => {
            Err(Error::argument("standby", "must not be the primary itself").hint(
                "If the standby's directory is a copy of the primary's, stop the standby and \
                 remove pg_stat/keysmith_node there.",
            ))
        }
        _ => Ok(()),
    }
}

/// The worker stores the backlog of this server first. Otherwise the caller could make its records
/// count as stored. A standby that was made from a backup has the same backlog, and tries again.
fn leave_to_worker(incarnation: i64) -> Result<()> {
    if IncarnationFile::backlogs().iter().all(|file| file.incarnation != incarnation) {
        return Ok(());
    }
    if let Some((queue, place)) = worker_slot::find_place() {
        worker_slot::ensure(queue, place);
    }
    Err(Error::new(Code::Conflict, "the records of this incarnation wait on the primary itself")
        .hint("Its worker stores them now. Try again."))
}

/// Stores what is new of a load. Called as the extension's owner, in a transaction that stores all
/// of it or nothing.
pub fn receive(from: &Incarnation, load: &Load) -> Result<Marks> {
    let named =
        |from: &Incarnation| [Param::bigint(Some(from.id)), Param::oid(server::my_database())];
    let [incarnation, database] = named(from);
    let is_new = spi::execute(
        "INSERT INTO keysmith_private.usage_incarnation
             (incarnation, database, server, started_at, most_waiting, node, node_name, primary_since)
         VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN $4 END)
         ON CONFLICT (incarnation, database) DO NOTHING",
        &[
            incarnation,
            database,
            Param::bigint(Some(incarnations::server())),
            Param::timestamp(Some(from.id)),
            Param::bigint(Some(from.most_waiting)),
            Param::text(&from.node.id),
            Param::text(&from.node.name),
            Param::boolean(from.is_own),
        ],
    )? > 0;
    if is_new && !from.is_own {
        // This server itself knows what it has lost.
        if !queue().is_some_and(|queue| from.node.is(queue.node)) {
            report_losses(from)?;
        }
        forget_incarnations(from)?;
    }
    // If two bring the same records, the second waits here, and then sees what is stored.
    let found = spi::first(
        "SELECT last_sequence, unknown_seen, node FROM keysmith_private.usage_incarnation
         WHERE incarnation = $1 AND database = $2 FOR UPDATE",
        &named(from),
        |row| {
            let marks = Marks {
                last_sequence: row.bigint(1).unwrap_or_default(),
                unknown_seen: row.bigint(2).unwrap_or_default(),
            };
            Some((marks, row.text(3).unwrap_or_default()))
        },
    )?;
    let Some((marks, node)) = found else {
        return Err(Error::new(Code::Conflict, "this incarnation was just forgotten"));
    };
    if node != from.node.id {
        return Err(Error::new(
            Code::Conflict,
            format!("incarnation is that of another server, {node:?}"),
        ));
    }
    let fresh: Vec<(i64, Record)> =
        load.records.iter().filter(|(number, _)| *number > marks.last_sequence).copied().collect();
    let unfit: Vec<_> =
        load.unfit.iter().filter(|(number, ..)| *number > marks.last_sequence).copied().collect();
    let stored = quarantine::store_or_quarantine(&fresh, from.id)?;
    quarantine::note_unfit(&unfit, from.id)?;
    for (_, record) in &fresh {
        if let Record::Amendment { request_id, .. } = record
            && stored.unmatched.contains(request_id)
        {
            write_through::wait_for_its_event(record);
        }
    }
    let unknown_seen = if load.unknown_mark > marks.unknown_seen {
        let came = load.unknown_mark - marks.unknown_seen;
        let (counts, samples) = bounds::unknown(&load.unknown, &load.samples, came)?;
        unknown_rows::store(from.id, &counts, &samples)?;
        load.unknown_mark
    } else {
        marks.unknown_seen
    };
    let numbers = fresh.iter().map(|(number, _)| *number);
    let numbers = numbers.chain(unfit.iter().map(|(number, ..)| *number));
    let last = numbers.max().unwrap_or(marks.last_sequence);
    let [incarnation, database] = named(from);
    spi::execute(
        "UPDATE keysmith_private.usage_incarnation
         SET last_sequence = $3, stored = stored + $4, dropped = greatest(dropped, $5), unknown_seen = $6,
             last_flush_at = CASE WHEN $7 THEN pg_catalog.clock_timestamp() ELSE last_flush_at END,
             dropped_at = CASE WHEN $5 > dropped THEN pg_catalog.clock_timestamp() ELSE dropped_at END
         WHERE incarnation = $1 AND database = $2",
        &[
            incarnation,
            database,
            Param::bigint(Some(last)),
            Param::bigint(i64::try_from(stored.events).ok()),
            Param::bigint(Some(from.dropped)),
            Param::bigint(Some(unknown_seen)),
            // A call that only asks has stored nothing.
            Param::boolean(!fresh.is_empty() || unknown_seen > marks.unknown_seen),
        ],
    )?;
    Ok(Marks { last_sequence: last, unknown_seen })
}

/// Servers are restarted now and then. A role that makes up incarnations can't fill the table.
fn forget_incarnations(from: &Incarnation) -> Result<()> {
    spi::execute(
        "DELETE FROM keysmith_private.usage_incarnation AS i
         WHERE i.ctid IN (
             SELECT o.ctid FROM keysmith_private.usage_incarnation AS o
             WHERE o.primary_since IS NULL AND o.database = $1 AND o.incarnation <> $2
               AND coalesce(o.last_flush_at, o.started_at) <= (
                   SELECT coalesce(l.last_flush_at, l.started_at)
                   FROM keysmith_private.usage_incarnation AS l
                   WHERE l.primary_since IS NULL AND l.database = $1
                   ORDER BY 1 DESC OFFSET 1000 LIMIT 1)
             FOR UPDATE SKIP LOCKED)",
        &[Param::oid(server::my_database()), Param::bigint(Some(from.id))],
    )?;
    Ok(())
}

/// Reports what the server's incarnation before this one has lost: what it had not handed over,
/// unless it was shut down properly. Then its backlog came before.
fn report_losses(from: &Incarnation) -> Result<()> {
    let database = server::my_database().to_u32();
    for loss in incarnations::close_before(from.id, database, &from.node, !from.started_cleanly)? {
        pgrx::log!("keysmith: {loss}");
    }
    Ok(())
}

/// The records of a parcel, if a worker can have made it.
pub fn records(bytes: &[u8]) -> Option<Vec<(i64, Record<'_>)>> {
    let record = |(number, bytes): (u64, _)| {
        let record = Record::decode(bytes)?;
        let is_storable = match &record {
            Record::Event(event) => is_storable(event),
            Record::Amendment { told, .. } => learned_is_storable(told),
        };
        is_storable.then_some((i64::try_from(number).ok()?, record))
    };
    parcel::open(bytes)?.into_iter().map(record).collect()
}

fn unknown(bytes: &[u8]) -> Option<Vec<unknown_tally::Count<'_>>> {
    let counts = unknown_tally::read(bytes)?;
    let all = counts.iter().all(|(keyspace, reason, _)| is_text(keyspace) && is_text(reason));
    all.then_some(counts)
}

fn samples(bytes: &[u8]) -> Option<Vec<Event<'_>>> {
    let event = |(_, record)| match record {
        Record::Event(event) => Some(event),
        Record::Amendment { .. } => None,
    };
    records(bytes)?.into_iter().map(event).collect()
}

/// Whether the columns can hold it.
fn is_storable(event: &Event) -> bool {
    [event.keyspace, event.environment, event.outcome].into_iter().all(is_text)
        && event.subject.is_none_or(is_text)
        && learned_is_storable(&event.learned)
}

fn learned_is_storable(learned: &Learned) -> bool {
    [learned.method, learned.endpoint].into_iter().flatten().all(is_text)
        && learned.weights.is_none_or(lists::is_units)
        && learned.tags.is_none_or(|tags| {
            lists::is_tags(tags) && lists::entries(tags).all(|(_, value)| is_text(value))
        })
}

/// Whether the bytes are a text in the database's encoding.
fn is_text(bytes: &[u8]) -> bool {
    text::is_valid(bytes)
}

fn number(call: &Call, n: usize, name: &str) -> Result<i64> {
    match call.bigint(n) {
        None => Err(must_not_be_null(name)),
        Some(value) if value < 0 => Err(Error::argument(name, "must not be negative")),
        Some(value) => Ok(value),
    }
}

/// Bytes that are not too many for so many records.
fn bytes<'a>(call: &'a Call, n: usize, name: &str, records: usize) -> Result<&'a [u8]> {
    match call.bytes(n, records * MOST_SIZE) {
        None => Err(must_not_be_null(name)),
        Some(Bytes::TooLong) => Err(garbled(name)),
        Some(Bytes::Read(bytes)) => Ok(bytes),
    }
}

fn few<T>(read: Option<Vec<T>>, most: usize, name: &str) -> Result<Vec<T>> {
    read.filter(|read| read.len() <= most).ok_or_else(|| garbled(name))
}

fn garbled(name: &str) -> Error {
    Error::argument(name, "must be what a standby's worker made of its records")
}
