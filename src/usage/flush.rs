//! The worker's transactions: what is in the ring becomes rows, each once.

use super::ring::{MOST_ERROR, Ring};
use super::store::{self, Numbers, Stored};
use super::unknown::Unknown;
use super::{presence, settings};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::manage::authority;
use crate::manage::sql::{self, Param, Rows};
use keysmith_core::event::{Event, Record};
use keysmith_core::tally::Count;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, BackendState, Datum};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::SeqCst;

/// Amendments may overtake their events, which transactions hold back: they are tried
/// again for this long, in microseconds, and no more than so many.
const AMENDMENTS_WAIT: i64 = 60_000_000;
const MOST_AMENDMENTS: usize = 1_000;

/// How often a record alone is tried before it is set aside.
const TRIES: u32 = 3;
/// Where this many are set aside with nothing stored between them, the fault is not
/// theirs: the rest is kept until it is mended.
const MOST_IN_A_ROW: u32 = 10;

/// The waits after failures, in microseconds.
const SHORT_WAIT: i64 = 50_000;
const LONGEST_WAIT: i64 = 10_000_000;

pub struct Flusher {
    pub ring: &'static Ring,
    pub place: usize,
    oid: u32,
    /// How many records are tried at once: fewer after a failure, to find its cause.
    limit: u32,
    tries: u32,
    in_a_row: u32,
    /// Until when nothing is tried.
    waits_until: i64,
    wait: i64,
    amendments: Vec<(i64, Vec<u8>)>,
    /// The newest record that is known to be stored.
    stored_up_to: u64,
}

/// Why a transaction failed.
pub struct Failure {
    pub message: String,
    /// It may pass: nothing is wrong with what was to be stored.
    pub is_passing: bool,
}

#[derive(PartialEq, Eq)]
pub enum Outcome {
    Stored,
    Empty,
    Failed,
}

pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

impl Flusher {
    pub fn new(ring: &'static Ring, place: usize, oid: u32) -> Flusher {
        Flusher {
            ring,
            place,
            oid,
            limit: settings::batch_size(),
            tries: 0,
            in_a_row: 0,
            waits_until: 0,
            wait: SHORT_WAIT,
            amendments: Vec::new(),
            stored_up_to: 0,
        }
    }

    /// Opens this life's entry in the book of lives, and reports what an end without a
    /// flush may have cost the one before.
    pub fn open(&mut self) -> std::result::Result<(), Failure> {
        let (ring, oid) = (self.ring, self.oid);
        let (stored_up_to, losses) = transaction("opening", || {
            let rows = sql::query(
                "INSERT INTO keysmith.usage_incarnation
                     (incarnation, database, server, started_at, most_waiting)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (incarnation, database) DO UPDATE SET closed_at = NULL, standby = ''
                 RETURNING last_sequence",
                &[
                    bigint(ring.incarnation),
                    oid_param(oid),
                    bigint(server()),
                    Param::timestamp(Some(ring.incarnation)),
                    bigint(most_waiting(ring)),
                ],
            )?;
            let stored_up_to = rows.first().and_then(|row| row.bigint(1)).unwrap_or_default();
            let rows = sql::query(
                LOSSES,
                &[
                    bigint(ring.incarnation),
                    oid_param(oid),
                    bigint(server()),
                    Param::boolean(ring.started_cleanly),
                    Param::boolean(ring.started_as_standby),
                ],
            )?;
            Ok((stored_up_to, losses(&rows)))
        })?;
        self.stored_up_to = stored_up_to.unsigned_abs();
        for loss in losses {
            pgrx::warning!("keysmith: {loss}");
        }
        Ok(())
    }

    /// Notes that all is stored, so that an end of the server costs nothing from here.
    pub fn close(&mut self) -> bool {
        let (incarnation, oid) = (self.ring.incarnation, self.oid);
        let closed = transaction("closing", || {
            sql::execute(
                "UPDATE keysmith.usage_incarnation
                 SET closed_at = pg_catalog.clock_timestamp()
                 WHERE incarnation = $1 AND database = $2",
                &[bigint(incarnation), oid_param(oid)],
            )
        });
        closed.is_ok()
    }

    /// Whether something waits to be tried again.
    pub fn has_failed(&self) -> bool {
        self.waits_until > 0
    }

    pub fn may_try(&self) -> bool {
        now() >= self.waits_until
    }

    /// Stores a batch.
    pub fn batch(&mut self) -> Outcome {
        let waiting = self.ring.peek(self.place, self.limit.min(settings::batch_size()));
        let overdue = now();
        self.amendments.retain(|(until, _)| *until > overdue);
        if waiting.is_empty() && self.amendments.is_empty() {
            self.waits_until = 0;
            return Outcome::Empty;
        }
        let mut records: Vec<(i64, Record)> = Vec::with_capacity(waiting.len());
        let decoded = |bytes| Record::decode(bytes);
        for record in &waiting {
            if record.sequence > self.stored_up_to
                && let Some(decoded) = decoded(record.bytes)
            {
                records.push((record.sequence as i64, decoded));
            }
        }
        for (_, amendment) in &self.amendments {
            records.extend(decoded(amendment).map(|record| (0, record)));
        }
        let last = waiting.last().map(|record| record.sequence);
        match self.store(&records, last) {
            Ok(stored) => {
                let amendments = self.unmatched(&records, &stored);
                let given_up = amendments.1;
                let amended = records
                    .iter()
                    .filter(|(sequence, record)| {
                        *sequence > 0 && matches!(record, Record::Amendment { .. })
                    })
                    .count() as u64;
                drop(records);
                self.amendments = amendments.0;
                self.stored_up_to = last.unwrap_or(self.stored_up_to);
                self.ring.take_out(self.place, waiting.len() as u32, |counters| {
                    counters.stored += stored.events as u64;
                    counters.amendments += amended;
                    counters.unmatched += given_up;
                });
                self.ring.with(self.place, |database| database.worker.last_flush = overdue);
                self.succeeded();
                if waiting.is_empty() { Outcome::Empty } else { Outcome::Stored }
            }
            Err(failure) => {
                drop(records);
                self.failed(&failure, waiting.len() as u32);
                Outcome::Failed
            }
        }
    }

    fn store(
        &self,
        records: &[(i64, Record)],
        last: Option<u64>,
    ) -> std::result::Result<Stored, Failure> {
        let incarnation = self.ring.incarnation;
        let dropped = self.ring.with(self.place, |database| database.counters.dropped);
        transaction("storing", || {
            let stored = store::records(records, Numbers::OfRing { incarnation })?;
            sql::execute(
                "INSERT INTO keysmith.usage_incarnation AS i
                     (incarnation, database, server, started_at, most_waiting,
                      last_sequence, stored, dropped, last_flush_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())
                 ON CONFLICT (incarnation, database) DO UPDATE
                 SET last_sequence = greatest(i.last_sequence, excluded.last_sequence),
                     stored = i.stored + excluded.stored, dropped = excluded.dropped,
                     last_flush_at = excluded.last_flush_at, closed_at = NULL",
                &[
                    bigint(incarnation),
                    oid_param(self.oid),
                    bigint(server()),
                    Param::timestamp(Some(incarnation)),
                    bigint(most_waiting(self.ring)),
                    bigint(last.unwrap_or_default() as i64),
                    bigint(stored.events as i64),
                    bigint(dropped.unwrap_or_default() as i64),
                ],
            )?;
            Ok(stored)
        })
    }

    /// Amendments that found no event, to be tried again, and how many are given up.
    fn unmatched(&self, records: &[(i64, Record)], stored: &Stored) -> (Vec<(i64, Vec<u8>)>, u64) {
        let until = now() + AMENDMENTS_WAIT;
        let mut kept: Vec<(i64, Vec<u8>)> = Vec::new();
        let mut given_up = 0;
        for (sequence, record) in records {
            let Record::Amendment { request_id, .. } = record else { continue };
            if !stored.unmatched.contains(request_id) {
                continue;
            }
            let mut room = [0; keysmith_core::event::MAX_LEN];
            let length = record.encode(&mut room);
            let bytes = room.get(..length).unwrap_or_default().to_vec();
            let before = self.amendments.iter().find(|(_, known)| *known == bytes);
            match before {
                Some((until, _)) if *sequence == 0 => kept.push((*until, bytes)),
                _ if kept.len() < MOST_AMENDMENTS => kept.push((until, bytes)),
                _ => given_up += 1,
            }
        }
        (kept, given_up)
    }

    fn succeeded(&mut self) {
        self.limit = self.limit.saturating_mul(2).min(settings::batch_size());
        self.tries = 0;
        self.in_a_row = 0;
        self.wait = SHORT_WAIT;
        self.waits_until = 0;
    }

    /// Waits after a failure that may pass. After another, looks for the record that
    /// can't be stored, in ever smaller batches, and sets it aside.
    fn failed(&mut self, failure: &Failure, size: u32) {
        let is_first = self.tries == 0 && self.limit == settings::batch_size();
        self.remember(&failure.message);
        if is_first {
            pgrx::warning!("keysmith: usage could not be stored: {}", failure.message);
        }
        self.tries += 1;
        if !failure.is_passing && (is_first || self.tries == 1 && size == 1) {
            // Maybe all that is missing is a partition.
            self.prepare();
        }
        if !failure.is_passing && size > 1 {
            self.limit = (size / 2).max(1);
            self.tries = 0;
            return self.pause(SHORT_WAIT);
        }
        let is_to_blame = !failure.is_passing && self.tries >= TRIES;
        if is_to_blame && self.in_a_row < MOST_IN_A_ROW && self.set_aside(failure) {
            self.tries = 0;
            self.in_a_row += 1;
            self.wait = SHORT_WAIT;
            self.limit = self.limit.saturating_mul(2).min(settings::batch_size());
            return;
        }
        self.pause(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    fn pause(&mut self, wait: i64) {
        self.waits_until = now() + wait;
    }

    /// Stores a record apart that can't be stored where it belongs.
    fn set_aside(&mut self, failure: &Failure) -> bool {
        let waiting = self.ring.peek(self.place, 1);
        let Some(record) = waiting.first() else { return false };
        let Some(decoded) = Record::decode(record.bytes) else { return false };
        let (request_id, key_id, at) = match decoded {
            Record::Event(event) => (event.request_id, Some(event.key_id), Some(event.at)),
            Record::Amendment { request_id, .. } => (request_id, None, None),
        };
        let incarnation = self.ring.incarnation;
        let done = transaction("setting aside", || {
            sql::execute(
                "INSERT INTO keysmith.usage_set_aside
                     (incarnation, sequence, at, request_id, key_id, error)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &[
                    bigint(incarnation),
                    bigint(record.sequence as i64),
                    Param::timestamp(at),
                    Param::uuid(&request_id),
                    Param::given(pg_sys::UUIDOID, key_id.as_ref().map(sql::uuid_datum)),
                    Param::text(&failure.message),
                ],
            )?;
            // The newest thousand are enough to tell what is wrong.
            sql::execute(
                "DELETE FROM keysmith.usage_set_aside
                 WHERE set_aside_at < (SELECT s.set_aside_at FROM keysmith.usage_set_aside s
                                       ORDER BY s.set_aside_at DESC OFFSET 1000 LIMIT 1)",
                &[],
            )
        });
        if done.is_ok() {
            self.ring.take_out(self.place, 1, |counters| counters.set_aside += 1);
            pgrx::warning!("keysmith: a usage record was set aside: {}", failure.message);
        }
        done.is_ok()
    }

    /// Stores the counts and samples of requests without a known key.
    pub fn unknown(&mut self) -> Outcome {
        let copy: Option<Unknown> = self.ring.with(self.place, |database| database.unknown);
        let Some(copy) = copy.filter(|unknown| !unknown.is_empty()) else {
            return Outcome::Empty;
        };
        let taken = copy.taken();
        let done = transaction("storing unknown", || {
            let samples: Vec<Event> = taken.samples.iter().filter_map(|s| event(s)).collect();
            unknown_rows(&taken.counts(), &samples)
        });
        match done {
            Ok(_) => {
                self.ring.with(self.place, |database| database.unknown.subtract(&copy));
                Outcome::Stored
            }
            Err(failure) => {
                self.remember(&failure.message);
                Outcome::Failed
            }
        }
    }

    /// What the tables need from time to time.
    pub fn maintain(&mut self) {
        self.call("SELECT keysmith.maintain()");
        let ring = self.ring;
        let forgotten = transaction("forgetting", || {
            presence::forget_dropped_databases(ring);
            Ok(())
        });
        if let Err(failure) = forgotten {
            self.remember(&failure.message);
        }
    }

    /// Partitions for what is about to be stored.
    pub fn prepare(&mut self) {
        self.call("SELECT keysmith.usage_prepare()");
    }

    fn call(&mut self, statement: &str) {
        let done = transaction(statement, || sql::execute(statement, &[]));
        if let Err(failure) = done {
            self.remember(&failure.message);
            pgrx::warning!("keysmith: {statement}: {}", failure.message);
        }
    }

    pub fn is_empty(&self) -> bool {
        let held = self.ring.signals.get(self.place).map(|s| s.held.load(SeqCst));
        let is_empty =
            self.ring.with(self.place, |d| d.count == 0 && d.unknown.is_empty()).unwrap_or(true);
        is_empty && held.unwrap_or_default() == 0 && self.amendments.is_empty()
    }

    /// Throws away what belongs to an extension that is no more.
    pub fn discard(&mut self) {
        discard(self.ring, self.place);
        self.amendments.clear();
    }

    /// Whether so many waiting records should be stored before the interval is over.
    pub fn is_worth_it(&self, count: u32) -> bool {
        count >= self.ring.wakes_at() && self.may_try()
    }

    /// Notes that something failed which will be tried again.
    pub fn could_not(&mut self, failure: &Failure) {
        self.remember(&failure.message);
        pgrx::warning!("keysmith: usage can't be stored: {}", failure.message);
        self.pause(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Keeps an error where `usage_status` shows it.
    pub fn remember(&self, message: &str) {
        remember(self.ring, self.place, message);
    }
}

/// Keeps an error where `usage_status` shows it.
pub fn remember(ring: &Ring, place: usize, message: &str) {
    let mut kept = [0; MOST_ERROR];
    let end = (0..=message.len().min(MOST_ERROR)).rev().find(|n| message.is_char_boundary(*n));
    let message = message.as_bytes().get(..end.unwrap_or(0)).unwrap_or_default();
    for (place, byte) in kept.iter_mut().zip(message) {
        *place = *byte;
    }
    ring.with(place, |database| {
        database.worker.last_error = kept;
        database.counters.failed_batches += 1;
    });
}

/// Throws away all that waits for a database.
pub fn discard(ring: &Ring, place: usize) {
    let waiting = ring.with(place, |database| database.count).unwrap_or_default();
    ring.take_out(place, waiting, |counters| counters.discarded += u64::from(waiting));
    ring.with(place, |database| {
        let all = database.unknown;
        database.unknown.subtract(&all);
    });
}

fn event(sample: &[u8]) -> Option<Event<'_>> {
    match Record::decode(sample)? {
        Record::Event(event) => Some(event),
        Record::Amendment { .. } => None,
    }
}

/// Adds to the counts, and to the samples, of requests without a known key.
pub fn unknown_rows(counts: &[Count], samples: &[Event]) -> Result<()> {
    for (keyspace, reason, requests) in counts {
        sql::execute(
            "INSERT INTO keysmith.usage_unknown AS u (keyspace, reason, hour, requests)
             VALUES ($1, $2, pg_catalog.date_trunc('hour', pg_catalog.now()), $3)
             ON CONFLICT (keyspace, reason, hour)
             DO UPDATE SET requests = u.requests + excluded.requests",
            &[text(keyspace), text(reason), bigint(*requests as i64)],
        )?;
    }
    for event in samples {
        let ip = event.ip.map(|address| address.to_string());
        sql::execute(
            "INSERT INTO keysmith.usage_unknown_sample
                 (at, keyspace, reason, method, endpoint, ip)
             VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.inet)",
            &[
                Param::timestamp(Some(event.at)),
                text(event.keyspace),
                text(event.outcome),
                Param::given(pg_sys::TEXTOID, event.learned.method.map(store::bytes)),
                Param::given(pg_sys::TEXTOID, event.learned.endpoint.map(store::bytes)),
                Param::text_or_null(ip.as_deref()),
            ],
        )?;
    }
    sql::execute(
        "DELETE FROM keysmith.usage_unknown_sample
         WHERE at < (SELECT s.at FROM keysmith.usage_unknown_sample s
                     ORDER BY s.at DESC OFFSET 1000 LIMIT 1)",
        &[],
    )?;
    Ok(())
}

/// How many requests a sudden end can cost at most: those in this database's share of
/// the ring, and one that each backend holds back.
pub fn most_waiting(ring: &Ring) -> i64 {
    // SAFETY: set when the server starts.
    i64::from(ring.share) + i64::from(unsafe { pg_sys::MaxBackends })
}

fn server() -> i64 {
    // SAFETY: set when the server starts.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

/// The life before this one: after a proper end nothing is lost, as what waited was
/// kept; else it is reported. A standby that was promoted knows nothing of the end of
/// the primary before it, whose life may have begun after its own.
const LOSSES: &str = "
    UPDATE keysmith.usage_incarnation AS i
    SET lost_at_most = CASE WHEN l.is_loss THEN i.most_waiting END,
        lost_from = CASE WHEN l.is_loss
                         THEN coalesce(i.closed_at, i.last_flush_at, i.started_at) END,
        lost_until = CASE WHEN l.is_loss
                          THEN CASE WHEN $5 THEN pg_catalog.now() ELSE c.started_at END END,
        closed_at = CASE WHEN l.is_loss THEN i.closed_at ELSE coalesce(i.closed_at, c.started_at) END
    FROM keysmith.usage_incarnation AS c, (SELECT $5 OR NOT $4 AS is_loss) AS l
    WHERE c.incarnation = $1 AND c.database = $2
      AND i.database = $2 AND i.lost_at_most IS NULL AND i.incarnation = (
          SELECT pg_catalog.max(l.incarnation) FROM keysmith.usage_incarnation AS l
          WHERE l.database = $2 AND l.server = $3 AND l.standby = ''
            AND l.incarnation <> $1 AND ($5 OR l.incarnation < $1))
    RETURNING pg_catalog.format('usage of at most %s requests may have been lost between %s and %s',
                                i.lost_at_most, i.lost_from, i.lost_until), i.lost_at_most";

pub fn losses(rows: &Rows) -> Vec<String> {
    let reported = rows.iter().filter(|row| row.bigint(2).is_some());
    reported.filter_map(|row| row.text(1)).collect()
}

fn bigint(value: i64) -> Param {
    Param::given(pg_sys::INT8OID, Some(Datum::from(value)))
}

pub fn oid_param(oid: u32) -> Param {
    Param::given(pg_sys::OIDOID, Some(Datum::from(oid)))
}

fn text(bytes: &[u8]) -> Param {
    Param::given(pg_sys::TEXTOID, Some(store::bytes(bytes)))
}

/// Runs something in a transaction of its own, as the extension's owner.
pub fn transaction<T>(
    what: &str,
    body: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Failure> {
    bare_transaction(what, || authority::as_owner(&Catalog::open()?, body))
}

/// Runs something in a transaction of its own.
pub fn bare_transaction<T>(
    what: &str,
    body: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Failure> {
    let activity = std::ffi::CString::new(format!("keysmith usage: {what}")).unwrap_or_default();
    let run = AssertUnwindSafe(|| {
        // SAFETY: what a background worker does for a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::pgstat_report_activity(BackendState::STATE_RUNNING, activity.as_ptr());
        }
        let done = body()
            .map_err(|error| Failure { message: error.message().into(), is_passing: false })?;
        // SAFETY: as above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(done)
    });
    let outcome = pgrx::PgTryBuilder::new(run).catch_others(|error| Err(caught(&error))).execute();
    // SAFETY: after a failure the transaction, if there is one, is rolled back. Then
    // nothing is left of it but the memory in which workers live.
    unsafe {
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(BackendState::STATE_IDLE, std::ptr::null());
    }
    outcome
}

/// Whether the extension is there, as far as can be seen.
pub fn extension_exists() -> bool {
    let exists = bare_transaction("looking for the extension", || {
        // SAFETY: a look-up by name, inside a transaction.
        let oid = unsafe { pg_sys::get_extension_oid(c"keysmith".as_ptr(), true) };
        Ok(oid != pg_sys::Oid::INVALID)
    });
    exists.unwrap_or(true)
}

/// What an error that was caught says.
pub fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().into(),
    }
}

fn caught(error: &CaughtError) -> Failure {
    let is_passing = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            is_passing(report.sql_error_code() as i32)
        }
        CaughtError::RustPanic { .. } => false,
    };
    Failure { message: message(error), is_passing }
}

/// Whether an SQLSTATE is of a class that tells of the server's state, or of others'
/// doings, and not of the data.
pub fn is_passing(packed: i32) -> bool {
    let character = |place: i32| ((packed >> (6 * place)) & 0x3f) as u8 + b'0';
    matches!(&[character(0), character(1)], b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
}
