//! Rows of usage: many records by one statement. Called as the extension's owner, with
//! statements at command.

use crate::error::{Code, Error, Result};
use crate::manage::sql::{self, Param};
use keysmith_core::event::{Event, Learned, Record};
use pgrx::pg_sys::{self, Datum};
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::net::IpAddr;
use std::ptr::null_mut;

/// Where the numbers of the rows come from.
#[derive(Clone, Copy)]
pub enum Numbers {
    /// Those of the records, within a life of the server's shared memory.
    OfRing { incarnation: i64 },
    /// A sequence of the database's.
    OfSequence,
}

#[derive(Default)]
pub struct Stored {
    pub events: usize,
    /// Amendments whose event isn't stored.
    pub unmatched: Vec<[u8; 16]>,
}

/// The columns of `keysmith.usage_event`.
const COLUMNS: usize = 14;

/// Stores records, each with its number.
pub fn records(records: &[(i64, Record)], numbers: Numbers) -> Result<Stored> {
    // An amendment comes after its event, so those of one batch meet here.
    let mut told: HashMap<[u8; 16], Learned> = HashMap::new();
    for (_, record) in records {
        if let Record::Amendment { request_id, told: learned } = record {
            let known = told.entry(*request_id).or_default();
            *known = known.amended(*learned);
        }
    }
    let mut batch = Batch::new()?;
    for (sequence, record) in records {
        if let Record::Event(event) = record {
            let mut event = *event;
            if !told.is_empty()
                && let Some(learned) = told.remove(&event.request_id)
            {
                event.learned = event.learned.amended(learned);
            }
            batch.add(&event, *sequence, numbers);
        }
    }
    Ok(Stored { events: batch.insert(numbers)?, unmatched: amend(told)? })
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
        // SAFETY: look-ups by name, which give InvalidOid if there is none.
        let table = unsafe {
            let schema = pg_sys::get_namespace_oid(c"keysmith".as_ptr(), true);
            pg_sys::get_relname_relid(c"usage_event".as_ptr(), schema)
        };
        if table == pg_sys::Oid::INVALID {
            return Err(missing());
        }
        // SAFETY: PostgreSQL raises an error if the table is gone meanwhile. The store
        // is in SPI's memory, which goes with the session.
        unsafe {
            let relation = pg_sys::table_open(table, LOCK);
            if usize::try_from((*(*relation).rd_att).natts) != Ok(COLUMNS) {
                pg_sys::table_close(relation, LOCK);
                return Err(missing());
            }
            let rows = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            Ok(Batch { relation, rows, count: 0 })
        }
    }

    fn add(&mut self, event: &Event, sequence: i64, numbers: Numbers) {
        let incarnation = match numbers {
            Numbers::OfRing { incarnation } => incarnation,
            Numbers::OfSequence => 0,
        };
        let learned = &event.learned;
        let row: [Option<Datum>; COLUMNS] = [
            Some(Datum::from(event.at)),
            Some(Datum::from(incarnation)),
            Some(Datum::from(sequence)),
            Some(Datum::from(event.request_id.as_ptr())),
            Some(Datum::from(event.key_id.as_ptr())),
            Some(Datum::from(event.tenant_id.as_ptr())),
            Some(bytes(event.keyspace)),
            Some(bytes(event.environment)),
            learned.method.map(bytes),
            learned.endpoint.map(bytes),
            Some(Datum::from(learned.status.unwrap_or_default())),
            Some(bytes(event.outcome)),
            event.ip.map(inet),
            learned.latency.map(interval),
        ];
        let mut values = row.map(|value| value.unwrap_or(Datum::null()));
        let mut nulls = row.map(|value| value.is_none());
        // SAFETY: the values are of the columns' types; they are copied.
        unsafe {
            pg_sys::tuplestore_putvalues(
                self.rows,
                (*self.relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
        self.count += 1;
    }

    fn insert(self, numbers: Numbers) -> Result<usize> {
        if self.count > 0 {
            let sequence = match numbers {
                Numbers::OfRing { .. } => "sequence",
                Numbers::OfSequence => {
                    "pg_catalog.nextval('keysmith.usage_sequence'::pg_catalog.regclass)"
                }
            };
            self.register()?;
            sql::execute(
                &format!(
                    "INSERT INTO keysmith.usage_event
                         (at, incarnation, sequence, request_id, key_id, tenant_id, keyspace,
                          environment, method, endpoint, status, outcome, ip, latency)
                     SELECT at, incarnation, {sequence}, request_id, key_id, tenant_id, keyspace,
                          environment, method, endpoint, status, outcome, ip, latency
                     FROM batch"
                ),
                &[],
            )?;
        }
        // SAFETY: registered above or not; opened in `new`. The transaction keeps the
        // lock until it ends.
        unsafe {
            pg_sys::SPI_unregister_relation(NAME.as_ptr());
            pg_sys::tuplestore_end(self.rows);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
        Ok(self.count)
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

/// Completes rows that are stored already; gives back what found none.
fn amend(told: HashMap<[u8; 16], Learned>) -> Result<Vec<[u8; 16]>> {
    let mut unmatched = Vec::new();
    if told.is_empty() {
        return Ok(unmatched);
    }
    // Each partition has an index on request_id; estimates must not lead elsewhere.
    for setting in [c"enable_seqscan", c"enable_hashjoin", c"enable_mergejoin"] {
        set_for_now(setting, c"off");
    }
    for (request_id, told) in told {
        let updated = sql::execute(
            "UPDATE keysmith.usage_event
             SET status = coalesce($2, status), latency = coalesce($3, latency),
                 method = coalesce($4, method), endpoint = coalesce($5, endpoint)
             WHERE request_id = $1",
            &[
                Param::uuid(&request_id),
                Param::integer(told.status),
                Param::given(pg_sys::INTERVALOID, told.latency.map(interval)),
                Param::given(pg_sys::TEXTOID, told.method.map(bytes)),
                Param::given(pg_sys::TEXTOID, told.endpoint.map(bytes)),
            ],
        )?;
        if updated == 0 {
            unmatched.push(request_id);
        }
    }
    Ok(unmatched)
}

/// Somebody's request waits for us, so we don't wait long for others.
pub fn be_brief() {
    set_for_now(c"lock_timeout", c"1s");
}

/// Until the caller's nested settings end: see `authority`.
fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: settings that every user may set, within a nest level.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// A text as it is, in the database's encoding.
pub fn bytes(text: &[u8]) -> Datum {
    // SAFETY: the length is that of the slice.
    unsafe { pg_sys::cstring_to_text_with_len(text.as_ptr().cast::<c_char>(), text.len() as i32) }
        .into()
}

/// An inet has a text's layout: family, length of its network, address.
fn inet(address: IpAddr) -> Datum {
    const INET: u8 = 2;
    const INET6: u8 = 3;
    let mut value = [0; 18];
    let used = match address {
        IpAddr::V4(address) => {
            value[..2].copy_from_slice(&[INET, 32]);
            value[2..6].copy_from_slice(&address.octets());
            6
        }
        IpAddr::V6(address) => {
            value[..2].copy_from_slice(&[INET6, 128]);
            value[2..].copy_from_slice(&address.octets());
            18
        }
    };
    bytes(&value[..used])
}

fn interval(microseconds: i64) -> Datum {
    // SAFETY: memory of the structure's size, filled in at once.
    unsafe {
        let interval = pg_sys::palloc0(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
        (*interval).time = microseconds;
        Datum::from(interval)
    }
}

fn missing() -> Error {
    Error::new(Code::Installation, "keysmith.usage_event is not what the library expects")
}
