//! Stores a batch of records: by `bulk_insert` where that is possible, otherwise by an `INSERT`.
//! Amendments are an `UPDATE`. Called as the extension's owner, connected to SPI.

use crate::catalog::Catalog;
use crate::catalog::columns::tenant as column;
use crate::usage::store::bulk_insert;
use crate::usage::store::counted;
use crate::usage::store::deltas;
use crate::usage::store::partitions;
use crate::usage::store::partitions::with_events;
use crate::usage::store::rows;
use crate::usage::store::totalled_tags;
use keysmith_core::counted::{Counted, Kept};
use keysmith_core::event::{Event, Learned, Person, Record};
use keysmith_core::request_id;
use keysmith_core::tally::Tally;
use pg::attempt::{Outcome, subtransaction, unless_twice};
use pg::bulk::with_array;
use pg::error::{Code, Error, Result};
use pg::lock::Mode;
use pg::scan::{Room, ScanKey, Snapshot};
use pg::settings::set_for_now;
use pg::spi::{self, Param};
use pg::table::Lock;
use std::collections::{HashMap, HashSet};

/// The numbers of the rows.
#[derive(Clone, Copy)]
pub enum Numbers {
    /// Those of the records, within the incarnation that runs.
    OfQueue { incarnation: i64 },
    /// Those of the records, within another incarnation. A record is left out if its request has a
    /// row already.
    Received { incarnation: i64 },
    /// The next ones of a sequence.
    OfSequence,
}

#[derive(Default)]
pub struct Stored {
    pub events: usize,
    /// Request ids of amendments that found no row.
    pub unmatched: HashSet<[u8; 16]>,
    /// Those of amendments that come too late for a request without a row.
    pub given_up: HashSet<[u8; 16]>,
    /// Records of requests without rows, which later reports may change.
    pub kept: Vec<Kept>,
}

/// Stores records, each with its number. Makes the partitions that are missing. `known` are requests
/// without rows that were counted before.
pub fn records(
    records: &[(i64, Record)],
    numbers: Numbers,
    known: Option<&Counted>,
) -> Result<Stored> {
    // An amendment comes after its event, so those of one batch meet here.
    let mut told: HashMap<[u8; 16], Learned> = HashMap::new();
    for (_, record) in records {
        if let Record::Amendment { request_id, told: learned, .. } = record {
            let known = told.entry(*request_id).or_default();
            *known = known.amended(*learned);
        }
    }
    // The weights that a settlement adds to those of a decision.
    let mut merged: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
    if told.values().any(|told| told.weights.is_some()) {
        for (_, record) in records {
            if let Record::Event(event) = record
                && let Some(learned) = told.get(&event.request_id)
                && let Some(weights) = event.learned.merged_weights(learned)
            {
                merged.insert(event.request_id, weights);
            }
        }
    }
    let totalled = totalled_tags::of_batch(records, &told)?;
    let mut events: Vec<(i64, Event)> = Vec::with_capacity(records.len());
    for (sequence, record) in records {
        if let Record::Event(event) = record {
            let mut event = *event;
            if !told.is_empty()
                && let Some(learned) = told.remove(&event.request_id)
            {
                event.learned = event.learned.amended(learned);
                if let Some(weights) = merged.get(&event.request_id) {
                    event.learned.weights = Some(weights);
                }
            }
            if event.learned.tags.is_some() {
                event.counted_tags = totalled.get(event.keyspace).map(Vec::as_slice);
            }
            events.push((*sequence, event));
        }
    }
    // Reports about requests without rows.
    let (changes, given_up) =
        known.map(|known| counted::changes(known, &mut told)).unwrap_or_default();
    keep_to_tenants(&mut events)?;
    let mut stored = Stored { events: events.len(), given_up, ..Stored::default() };
    let mut tally = Tally::default();
    counted::take_out(&mut events, &mut tally, known, &mut stored.kept);
    let totalled_anew = totalled_tags::declared(counted::with_new_tags(&changes).collect())?;
    let mut anew = counted::anew(&changes, &totalled_anew);
    keep_to_tenants(&mut anew)?;
    counted::count_anew(&changes, &anew, &mut tally, &mut stored.kept);

    let days = partitions::missing(events.iter().map(|(_, event)| event.at));
    partitions::make(&days)?;
    let left = match numbers {
        Numbers::OfQueue { incarnation } => bulk_insert::store(&events, incarnation, &mut tally),
        // A role that may hand over records can make them up: a request that has a row is not
        // counted twice.
        Numbers::Received { incarnation } => {
            let mut added = Tally::default();
            let left = unless_twice(|| bulk_insert::store(&events, incarnation, &mut added));
            if left.is_some() {
                deltas::add(added)?;
            }
            left.unwrap_or_else(|| (0..events.len()).collect())
        }
        Numbers::OfSequence => (0..events.len()).collect(),
    };
    deltas::add(tally)?;
    if !left.is_empty() {
        let left: Vec<_> = left.iter().filter_map(|n| events.get(*n)).collect();
        stored.events = stored.events - left.len() + insert(&left, numbers)?;
    }
    stored.unmatched = match numbers {
        // At the caller's isolation level the row may be out of sight.
        Numbers::OfSequence => {
            subtransaction(|| amend(&told)).unwrap_or_else(|_| told.keys().copied().collect())
        }
        Numbers::OfQueue { .. } | Numbers::Received { .. } => amend(&told)?,
    };
    Ok(stored)
}

/// Whether a tenant is still as it was when one of its keys was decided about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    There,
    Erased,
    Gone,
}

/// Removes the address, the member, the subject and the tags from events of tenants that were erased meanwhile, and the
/// events of tenants that are gone with their keyspace. Both lock the table, so from here on they wait
/// until these events are committed, and see them.
fn keep_to_tenants(events: &mut Vec<(i64, Event)>) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    with_events(Mode::RowExclusive, Lock::Kept, |_| ());
    let (tenants, snapshot) = (Catalog::open()?.tables.tenant.open(), Snapshot::now());
    let mut known: HashMap<[u8; 16], Fate> = HashMap::new();
    events.retain_mut(|(_, event)| {
        let fate = *known.entry(event.tenant_id).or_insert_with(|| {
            let by_id = [ScanKey::uuid(column::tenant_id, &event.tenant_id)];
            let room = Room::new();
            match tenants.first(&snapshot, &room, by_id, |_| true) {
                None => Fate::Gone,
                Some(row) if row.timestamp(column::erased_at).is_some() => Fate::Erased,
                Some(_) => Fate::There,
            }
        });
        if fate == Fate::Erased {
            event.ip = None;
            event.subject = None;
            event.learned.tags = None;
            event.counted_tags = None;
            event.person = event.person.map(|person| Person { member: b"", ..person });
        }
        fate != Fate::Gone
    });
    Ok(())
}

/// The same in a subtransaction: what fails has no effect.
pub fn attempt(records: &[(i64, Record)], numbers: Numbers) -> Outcome<Stored> {
    subtransaction(|| self::records(records, numbers, None))
}

/// Runs a statement with rows of these events, as an array of the table's row type.
fn with_batch<'a, T>(
    events: impl Iterator<Item = (i64, &'a Event<'a>)>,
    incarnation: i64,
    with: impl FnOnce(Param<'_>) -> Result<T>,
) -> Result<T> {
    let rows = events.map(|(sequence, event)| rows::event(event, incarnation, sequence));
    let done = with_events(Mode::RowExclusive, Lock::Kept, |table| {
        with_array(table, &rows::EVENT, rows, with)
    });
    done.flatten().unwrap_or_else(|| {
        let why = "keysmith_private.usage_event is not what the library expects";
        Err(Error::new(Code::Installation, why))
    })
}

/// Inserts rows, and returns their number.
fn insert(events: &[&(i64, Event)], numbers: Numbers) -> Result<usize> {
    let (incarnation, sequence, conflict) = match numbers {
        Numbers::OfQueue { incarnation } => (incarnation, "sequence", ""),
        Numbers::Received { incarnation } => (incarnation, "sequence", "ON CONFLICT DO NOTHING"),
        Numbers::OfSequence => {
            let next = "pg_catalog.nextval('keysmith_private.usage_sequence'::pg_catalog.regclass)";
            (0, next, "")
        }
    };
    let events = events.iter().map(|(sequence, event)| (*sequence, event));
    with_batch(events, incarnation, |batch| {
        spi::execute(
            &format!(
                "INSERT INTO keysmith_private.usage_event
                     (at, incarnation, sequence, request_id, key_id, tenant_id, keyspace,
                      environment, method, endpoint, status, outcome, ip, latency, member, signed_in_by,
                      spend, weights, subject, tags, counted_tags)
                 SELECT at, incarnation, {sequence}, request_id, key_id, tenant_id, keyspace,
                      environment, method, endpoint, status, outcome, ip, latency, member, signed_in_by,
                      spend, weights, subject, tags, counted_tags
                 FROM pg_catalog.unnest($1) AS batch {conflict}"
            ),
            &[batch],
        )
    })
}

/// Amends rows that are stored already. Returns the request ids that found no row, or one that
/// another transaction has locked. One statement looks for all, in the partitions of the days that
/// the ids can be of.
pub fn amend<'a>(told: &HashMap<[u8; 16], Learned<'a>>) -> Result<HashSet<[u8; 16]>> {
    let mut unmatched: HashSet<[u8; 16]> = told.keys().copied().collect();
    if told.is_empty() {
        return Ok(unmatched);
    }
    let event = |(name, told): (&[u8; 16], &Learned<'a>)| {
        let at = request_id::moment(name)?;
        Some(Event { at, request_id: *name, learned: *told, ..Event::default() })
    };
    let events: Vec<Event> = told.iter().filter_map(event).collect();
    // Each partition has an index on request_id; estimates must not lead elsewhere.
    for setting in [c"enable_seqscan", c"enable_hashjoin", c"enable_mergejoin"] {
        set_for_now(setting, c"off");
    }
    for setting in [c"enable_indexscan", c"enable_nestloop", c"enable_partition_pruning"] {
        set_for_now(setting, c"on");
    }
    // An erasure locks the table. It is over, or waits for this.
    with_events(Mode::RowExclusive, Lock::Kept, |_| ());
    // A new snapshot, at every isolation level, shows rows that were stored since this transaction began.
    let now = Snapshot::now();
    let amended = with_batch(events.iter().map(|event| (0, event)), 0, |batch| {
        spi::change_now(
        &now,
        "WITH found AS MATERIALIZED (
             SELECT e.request_id, e.at, nullif(b.status, 0) AS status, b.latency, b.method, b.endpoint,
                    b.spend, b.weights, b.tags
             FROM pg_catalog.unnest($1) AS b JOIN keysmith_private.usage_event e
               ON e.request_id = b.request_id
              AND e.at > b.at - interval '24 hours' AND e.at < b.at + interval '24 hours'
             FOR UPDATE OF e SKIP LOCKED)
         UPDATE keysmith_private.usage_event AS e
         SET status = coalesce(f.status, e.status), latency = coalesce(f.latency, e.latency),
             method = coalesce(f.method, e.method), endpoint = coalesce(f.endpoint, e.endpoint),
             spend = coalesce(f.spend, e.spend), weights = CASE WHEN f.weights IS NULL THEN e.weights
                       ELSE keysmith_private.merged_units(e.weights, f.weights) END,
             tags = CASE WHEN EXISTS (SELECT FROM keysmith_private.tenant t
                                      WHERE t.tenant_id = e.tenant_id AND t.erased_at IS NOT NULL)
                    THEN e.tags ELSE coalesce(f.tags, e.tags) END,
             counted_tags = CASE WHEN f.tags IS NULL OR EXISTS (
                                      SELECT FROM keysmith_private.tenant t
                                      WHERE t.tenant_id = e.tenant_id AND t.erased_at IS NOT NULL)
                    THEN e.counted_tags
                    ELSE (SELECT pg_catalog.array_to_string(k.usage_tags, ',')
                          FROM keysmith_private.keyspace k WHERE k.keyspace = e.keyspace) END
         FROM found f WHERE e.request_id = f.request_id AND e.at = f.at
         RETURNING e.request_id",
        &[batch],
        |amended| amended.iter().filter_map(|row| row.uuid(1)).collect::<Vec<_>>(),
    )
    })?;
    for name in amended {
        unmatched.remove(&name);
    }
    Ok(unmatched)
}

/// A request waits for this, so this waits for locks only half as long as PostgreSQL waits before it
/// looks for a deadlock. Of two transactions that wait for each other, this one fails.
pub fn be_brief() {
    set_for_now(c"lock_timeout", c"500ms");
    // Compiling a statement that names all partitions takes seconds.
    set_for_now(c"jit", c"off");
}
