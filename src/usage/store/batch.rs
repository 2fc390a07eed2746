//! Rows of usage: many records at once. Called as the extension's owner, with statements
//! at command.

use crate::usage::store::direct;
use crate::usage::store::partitions;
use crate::usage::store::rows::{self, EVENT, Texts};
use keysmith_core::event::{Event, Learned, Record};
use keysmith_core::request_id;
use pg::attempt::{Outcome, subtransaction, unless_twice};
use pg::error::{Code, Error, Result};
use pg::scan::Snapshot;
use pg::settings::set_for_now;
use pg::spi;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::ptr::null_mut;

/// Where the numbers of the rows come from.
#[derive(Clone, Copy)]
pub enum Numbers {
    /// Those of the records, within a life of the server's shared memory.
    OfQueue { incarnation: i64 },
    /// Those of records that come from elsewhere, within a life of another memory. Whose
    /// request has a row already is left out.
    Brought { incarnation: i64 },
    /// A sequence of the database's.
    OfSequence,
}

#[derive(Default)]
pub struct Stored {
    pub events: usize,
    /// Names in amendments for which no row could be completed.
    pub unmatched: HashSet<[u8; 16]>,
}

/// Stores records, each with its number. Makes the partitions that are missing.
pub fn records(records: &[(i64, Record)], numbers: Numbers) -> Result<Stored> {
    // An amendment comes after its event, so those of one batch meet here.
    let mut told: HashMap<[u8; 16], Learned> = HashMap::new();
    for (_, record) in records {
        if let Record::Amendment { request_id, told: learned, .. } = record {
            let known = told.entry(*request_id).or_default();
            *known = known.amended(*learned);
        }
    }
    let mut events: Vec<(i64, Event)> = Vec::with_capacity(records.len());
    for (sequence, record) in records {
        if let Record::Event(event) = record {
            let mut event = *event;
            if !told.is_empty()
                && let Some(learned) = told.remove(&event.request_id)
            {
                event.learned = event.learned.amended(learned);
            }
            events.push((*sequence, event));
        }
    }
    let days = partitions::missing(records.iter().map(|(_, record)| record));
    partitions::make(&days)?;
    let left: Vec<_> = match numbers {
        Numbers::OfQueue { incarnation } => direct::store(&events, incarnation),
        // The marks of a life say what is stored of it, but its records are made elsewhere:
        // none is counted with a request that has its row.
        Numbers::Brought { incarnation } => {
            unless_twice(|| direct::store(&events, incarnation)).unwrap_or(events.iter().collect())
        }
        Numbers::OfSequence => events.iter().collect(),
    };
    let mut stored = events.len();
    if !left.is_empty() {
        let mut batch = Batch::new()?;
        let mut texts = Texts::default();
        for (sequence, event) in &left {
            batch.add(event, *sequence, numbers, &mut texts);
        }
        stored = stored - left.len() + batch.insert(numbers)?;
    }
    let unmatched = match numbers {
        // The isolation level is the caller's, who may not see the row, nor change it.
        Numbers::OfSequence => subtransaction(|| amend(&told)).unwrap_or_else(|_| {
            forget_name();
            told.keys().copied().collect()
        }),
        Numbers::OfQueue { .. } | Numbers::Brought { .. } => amend(&told)?,
    };
    Ok(Stored { events: stored, unmatched })
}

/// The same in a subtransaction: what fails has no effect.
pub fn attempt(records: &[(i64, Record)], numbers: Numbers) -> Outcome<Stored> {
    let outcome = subtransaction(|| self::records(records, numbers));
    if outcome.is_err() {
        forget_name();
    }
    outcome
}

fn forget_name() {
    // SAFETY: statements are at command. The name may be there still, of a store that is no
    // more; if it is not, that is an answer like any other.
    unsafe { pg_sys::SPI_unregister_relation(NAME.as_ptr()) };
}

/// Rows on their way into the table, in a store that statements can name.
struct Batch {
    relation: pg_sys::Relation,
    rows: *mut pg_sys::Tuplestorestate,
    count: usize,
}

const LOCK: i32 = pg_sys::RowExclusiveLock as i32;
const NAME: &CStr = c"batch";

impl Batch {
    fn new() -> Result<Batch> {
        let table = partitions::named(c"usage_event").ok_or_else(missing)?;
        // SAFETY: PostgreSQL raises an error if the table is gone meanwhile. The store
        // is in SPI's memory, which goes with the session.
        unsafe {
            let relation = pg_sys::table_open(table, LOCK);
            if usize::try_from((*(*relation).rd_att).natts) != Ok(EVENT) {
                pg_sys::table_close(relation, LOCK);
                return Err(missing());
            }
            let rows = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            Ok(Batch { relation, rows, count: 0 })
        }
    }

    fn add<'a>(
        &mut self,
        event: &'a Event<'a>,
        sequence: i64,
        numbers: Numbers,
        texts: &mut Texts<'a>,
    ) {
        let incarnation = match numbers {
            Numbers::OfQueue { incarnation } | Numbers::Brought { incarnation } => incarnation,
            Numbers::OfSequence => 0,
        };
        let mut row = rows::event(event, incarnation, sequence, texts);
        let (values, nulls) = row.as_mut_ptrs();
        // SAFETY: the values are of the columns' types; they are copied.
        unsafe {
            pg_sys::tuplestore_putvalues(self.rows, (*self.relation).rd_att, values, nulls);
        }
        self.count += 1;
    }

    /// Inserts the rows, and tells how many.
    fn insert(self, numbers: Numbers) -> Result<usize> {
        let sequence = match numbers {
            Numbers::OfQueue { .. } | Numbers::Brought { .. } => "sequence",
            Numbers::OfSequence => {
                "pg_catalog.nextval('keysmith_private.usage_sequence'::pg_catalog.regclass)"
            }
        };
        let conflict = match numbers {
            Numbers::Brought { .. } => "ON CONFLICT DO NOTHING",
            Numbers::OfQueue { .. } | Numbers::OfSequence => "",
        };
        self.register()?;
        let inserted = spi::execute(
            &format!(
                "INSERT INTO keysmith_private.usage_event
                     (at, incarnation, sequence, request_id, key_id, tenant_id, keyspace,
                      environment, method, endpoint, status, outcome, ip, latency)
                 SELECT at, incarnation, {sequence}, request_id, key_id, tenant_id, keyspace,
                      environment, method, endpoint, status, outcome, ip, latency
                 FROM batch {conflict}"
            ),
            &[],
        )?;
        self.end();
        Ok(inserted)
    }

    fn end(self) {
        forget_name();
        // SAFETY: opened in `new`, and used by no statement any more. The transaction keeps
        // the lock until it ends.
        unsafe {
            pg_sys::tuplestore_end(self.rows);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }

    /// Gives the rows a name that statements of this session know.
    fn register(&self) -> Result<()> {
        // SAFETY: the structure is in SPI's memory, as the registration is; the name
        // is static, and not changed.
        let registered = unsafe {
            let relation = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
                .cast::<pg_sys::EphemeralNamedRelationData>();
            (*relation).md.name = NAME.as_ptr().cast_mut();
            (*relation).md.reliddesc = (*self.relation).rd_id;
            (*relation).md.tupdesc = null_mut();
            (*relation).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*relation).md.enrtuples = self.count as f64;
            (*relation).reldata = self.rows.cast();
            pg_sys::SPI_register_relation(relation)
        };
        if registered < 0 {
            return Err(Error::new(Code::Installation, "SPI_register_relation failed"));
        }
        Ok(())
    }
}

/// Completes rows that are stored already; gives back what found none, or one that another
/// transaction has locked. All at once: each name costs a look into the indexes of the days
/// that it can be of.
fn amend<'a>(told: &HashMap<[u8; 16], Learned<'a>>) -> Result<HashSet<[u8; 16]>> {
    let mut unmatched: HashSet<[u8; 16]> = told.keys().copied().collect();
    if told.is_empty() {
        return Ok(unmatched);
    }
    let event = |(name, told): (&[u8; 16], &Learned<'a>)| {
        let at = request_id::moment(name)?;
        Some(Event { at, request_id: *name, learned: *told, ..Event::default() })
    };
    let events: Vec<Event> = told.iter().filter_map(event).collect();
    let mut batch = Batch::new()?;
    let mut texts = Texts::default();
    for event in &events {
        batch.add(event, 0, Numbers::OfSequence, &mut texts);
    }
    // Each partition has an index on request_id; estimates must not lead elsewhere.
    for setting in [c"enable_seqscan", c"enable_hashjoin", c"enable_mergejoin"] {
        set_for_now(setting, c"off");
    }
    for setting in [c"enable_indexscan", c"enable_nestloop", c"enable_partition_pruning"] {
        set_for_now(setting, c"on");
    }
    batch.register()?;
    // Rows that others stored since this transaction began are amended too, at every isolation level.
    let now = Snapshot::now();
    let amended = spi::change_now(
        &now,
        "WITH found AS MATERIALIZED (
             SELECT e.request_id, e.at, nullif(b.status, 0) AS status, b.latency, b.method, b.endpoint
             FROM batch b JOIN keysmith_private.usage_event e
               ON e.request_id = b.request_id
              AND e.at > b.at - interval '24 hours' AND e.at < b.at + interval '24 hours'
             FOR UPDATE OF e SKIP LOCKED)
         UPDATE keysmith_private.usage_event AS e
         SET status = coalesce(f.status, e.status), latency = coalesce(f.latency, e.latency),
             method = coalesce(f.method, e.method), endpoint = coalesce(f.endpoint, e.endpoint)
         FROM found f WHERE e.request_id = f.request_id AND e.at = f.at
         RETURNING e.request_id",
        &[],
        |amended| amended.iter().filter_map(|row| row.uuid(1)).collect::<Vec<_>>(),
    )?;
    for name in amended {
        unmatched.remove(&name);
    }
    batch.end();
    Ok(unmatched)
}

/// A request waits for us, so we do not wait long for others: less than the second after which
/// PostgreSQL looks for a deadlock, so that of two that wait for each other we give way.
pub fn be_brief() {
    set_for_now(c"lock_timeout", c"500ms");
    // To compile what names all partitions takes seconds.
    set_for_now(c"jit", c"off");
}

fn missing() -> Error {
    Error::new(Code::Installation, "keysmith_private.usage_event is not what the library expects")
}
