//! Batches: what is in the queue becomes rows, each once, whatever fails between.

use crate::usage::queue::Queue;
use crate::usage::queue::unknown::Unknown;
use crate::usage::restart::backlog;
use crate::usage::restart::incarnations::{CurrentIncarnation, Progress};
use crate::usage::session::worker_slot;
use crate::usage::settings;
use crate::usage::store::batch::{self, Numbers, Stored};
use crate::usage::store::partitions;
use crate::usage::store::quarantine;
use crate::usage::store::unknown_rows;
use crate::usage::transaction::{Failure, Outcome, transaction};
use keysmith_core::event::{MAX_LEN, Record};
use pg::clock::{monotonic, now};
use pg::spi;
use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;

/// How often a record alone is tried before it is set aside.
const TRIES: u32 = 3;

/// The waits after failures, in microseconds.
const SHORT_WAIT: i64 = 50_000;
const LONGEST_WAIT: i64 = 10_000_000;

pub struct Flusher {
    pub queue: &'static Queue,
    pub place: usize,
    incarnation: CurrentIncarnation,
    /// How many records are tried at once: fewer after a failure, to find its cause.
    limit: u32,
    tries: u32,
    in_a_row: u32,
    /// Until when nothing is tried.
    waits_until: i64,
    wait: i64,
    /// How many amendments were put back, as their events have not come.
    late: u32,
    /// The newest record that is known to be stored.
    stored_up_to: u64,
    /// When to look for a backlog; `None` once it is stored.
    backlog_at: Option<i64>,
}

/// What became of a step of the worker's.
#[derive(PartialEq, Eq)]
pub enum Step {
    Stored,
    Empty,
    Failed,
}

/// For how long an amendment waits for its event, which a transaction may hold back, in
/// microseconds; and how many do at most.
const LATE_FOR: i64 = 60_000_000;
const MOST_LATE: usize = 1_000;

/// Amendments that found no event.
struct Unmatched {
    all: usize,
    /// Those to be tried again.
    late: Vec<Vec<u8>>,
}

fn unmatched(records: &[(i64, Record)], names: &HashSet<[u8; 16]>) -> Unmatched {
    let mut unmatched = Unmatched { all: 0, late: Vec::new() };
    let now = now();
    for (_, record) in records {
        if let Record::Amendment { request_id, at, .. } = record
            && names.contains(request_id)
        {
            unmatched.all += 1;
            // A clock that was set leaves nothing waiting for long.
            if now.abs_diff(*at) < LATE_FOR.unsigned_abs() && unmatched.late.len() < MOST_LATE {
                let mut room = [0; MAX_LEN];
                let length = record.encode(&mut room);
                unmatched.late.push(room.get(..length).unwrap_or_default().into());
            }
        }
    }
    unmatched
}

impl Flusher {
    pub fn new(queue: &'static Queue, place: usize, oid: u32) -> Flusher {
        Flusher {
            queue,
            place,
            incarnation: CurrentIncarnation { queue, oid },
            limit: settings::batch_size(),
            tries: 0,
            in_a_row: 0,
            waits_until: 0,
            wait: SHORT_WAIT,
            late: 0,
            stored_up_to: 0,
            backlog_at: Some(0),
        }
    }

    /// Opens this incarnation's row.
    pub fn open(&mut self) -> Outcome<()> {
        self.stored_up_to = self.incarnation.open()?;
        Ok(())
    }

    /// Notes that all is stored.
    pub fn close(&mut self) -> bool {
        self.incarnation.close().is_ok()
    }

    /// The newest record that is known to be stored.
    pub fn stored_up_to(&self) -> u64 {
        self.stored_up_to
    }

    /// Whether something waits to be tried again.
    pub fn has_failed(&self) -> bool {
        self.waits_until > 0
    }

    /// Whether more waits than amendments whose events have not come.
    pub fn has_news(&self) -> bool {
        self.queue
            .with(self.place, |d| d.records.count > self.late || !d.unknown.is_empty())
            .unwrap_or_default()
    }

    pub fn may_try(&self) -> bool {
        monotonic() >= self.waits_until
    }

    /// Stores what waited when the server was shut down. Newer records don't wait for it.
    pub fn store_backlog(&mut self) {
        if self.backlog_at.is_some_and(|moment| monotonic() >= moment) {
            let stored = backlog::store(self.queue, self.place);
            self.backlog_at = stored.is_err().then(|| monotonic() + LONGEST_WAIT);
            if let Err(message) = stored {
                self.remember(&message);
                pgrx::warning!("keysmith: what waited at the shutdown can't be stored: {message}");
            }
        }
    }

    /// Stores a batch.
    pub fn batch(&mut self) -> Step {
        let waiting = self.queue.peek(self.place, self.limit.min(settings::batch_size()));
        let begun = now();
        if waiting.is_empty() {
            self.waits_until = 0;
            return Step::Empty;
        }
        let mut records: Vec<(i64, Record)> = Vec::with_capacity(waiting.len());
        for record in waiting.iter() {
            if record.sequence > self.stored_up_to
                && let Some(decoded) = Record::decode(record.bytes)
            {
                records.push((record.sequence as i64, decoded));
            }
        }
        let last = waiting.last();
        match self.store(&records, last) {
            Ok(stored) => {
                let unmatched = unmatched(&records, &stored.unmatched);
                let is_amendment =
                    |(_, record): &&(i64, Record)| matches!(record, Record::Amendment { .. });
                let amendments = records.iter().filter(is_amendment).count();
                drop(records);
                self.stored_up_to =
                    last.map_or(self.stored_up_to, |last| last.max(self.stored_up_to));
                self.queue.take_out(self.place, waiting, |counters| {
                    counters.stored += stored.events as u64;
                });
                let is_put_back = |record: &&Vec<u8>| self.queue.put_back(self.place, record);
                let late = unmatched.late.iter().filter(is_put_back).count();
                self.late = late as u32;
                self.queue.count(self.place, |counters| {
                    counters.amendments += (amendments - late) as u64;
                    counters.unmatched += (unmatched.all - late) as u64;
                });
                self.queue.with(self.place, |database| database.worker.last_flush = begun);
                self.succeeded();
                Step::Stored
            }
            Err(failure) => {
                drop(records);
                if !self.is_overtaken() {
                    self.failed(&failure, waiting.len() as u32);
                }
                Step::Failed
            }
        }
    }

    fn store(&self, records: &[(i64, Record)], last: Option<u64>) -> Outcome<Stored> {
        let incarnation = self.queue.incarnation;
        let dropped = self.queue.with(self.place, |database| database.counters.dropped);
        transaction("storing", || {
            let stored = batch::records(records, Numbers::OfQueue { incarnation })?;
            self.incarnation.note(&Progress {
                from: self.stored_up_to,
                to: last.unwrap_or(self.stored_up_to),
                stored: stored.events,
                dropped: dropped.unwrap_or_default(),
            })?;
            Ok(stored)
        })
    }

    /// Whether more is stored than was known, so that the batch is another one now.
    fn is_overtaken(&mut self) -> bool {
        let known = self.stored_up_to;
        if let Ok(stored_up_to) = self.incarnation.stored_up_to() {
            self.stored_up_to = stored_up_to.max(known);
        }
        self.stored_up_to > known
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
        if !failure.is_passing && size > 1 {
            self.limit = (size / 2).max(1);
            self.tries = 0;
            return self.pause(SHORT_WAIT);
        }
        let is_to_blame = !failure.is_passing && self.tries >= TRIES;
        if is_to_blame && self.in_a_row < quarantine::MOST_IN_A_ROW && self.set_aside(failure) {
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
        self.waits_until = monotonic() + wait;
    }

    /// Stores a record apart that can't be stored where it belongs.
    fn set_aside(&mut self, failure: &Failure) -> bool {
        let waiting = self.queue.peek(self.place, 1);
        let Some(record) = waiting.iter().next() else { return false };
        let Some(decoded) = Record::decode(record.bytes) else { return false };
        let incarnation = self.queue.incarnation;
        let done = transaction("setting aside", || {
            quarantine::note(incarnation, record.sequence as i64, &decoded, &failure.message)
        });
        if done.is_ok() {
            self.queue.take_out(self.place, waiting, |counters| counters.set_aside += 1);
            pgrx::warning!("keysmith: a usage record was set aside: {}", failure.message);
        }
        done.is_ok()
    }

    /// Stores the counts and samples of requests without a known key.
    pub fn unknown(&mut self) -> Step {
        let copy: Option<Unknown> = self.queue.with(self.place, |database| database.unknown);
        let Some(copy) = copy.filter(|unknown| !unknown.is_empty()) else {
            return Step::Empty;
        };
        let taken = copy.taken();
        let done = transaction("storing unknown", || {
            unknown_rows::store(self.queue.incarnation, &taken.counts(), &taken.events())
        });
        match done {
            Ok(()) => {
                self.queue.with(self.place, |database| database.unknown.subtract(&copy));
                Step::Stored
            }
            Err(failure) => {
                self.remember(&failure.message);
                Step::Failed
            }
        }
    }

    /// What the tables need from time to time.
    pub fn maintain(&mut self) {
        self.call("SELECT keysmith.maintain()");
        let queue = self.queue;
        let forgotten = transaction("forgetting", || {
            worker_slot::forget_dropped_databases(queue);
            Ok(())
        });
        if let Err(failure) = forgotten {
            self.remember(&failure.message);
        }
    }

    /// Partitions of the days to come.
    pub fn prepare(&mut self) {
        self.call("SELECT keysmith_private.usage_prepare()");
    }

    /// Partitions that others wait for.
    pub fn make_wanted(&mut self) {
        let wanted = self.queue.with(self.place, |database| database.worker.wanted.take());
        let days = wanted.unwrap_or_default();
        if !days.is_empty()
            && let Err(failure) = transaction("making partitions", || partitions::make(&days))
        {
            self.remember(&failure.message);
        }
    }

    fn call(&mut self, statement: &str) {
        let done = transaction(statement, || spi::execute(statement, &[]));
        if let Err(failure) = done {
            self.remember(&failure.message);
            pgrx::warning!("keysmith: {statement}: {}", failure.message);
        }
    }

    pub fn is_empty(&self) -> bool {
        let pending = self.queue.signals.get(self.place).map(|s| s.pending.load(SeqCst));
        let is_empty = self.queue.with(self.place, |database| database.is_empty()).unwrap_or(true);
        is_empty && pending.unwrap_or_default() == 0
    }

    /// Throws away what belongs to an extension that is no more.
    pub fn discard(&mut self) {
        self.queue.discard(self.place);
        backlog::discard(self.queue, self.place);
    }

    /// Whether so many waiting records should be stored before the interval is over.
    pub fn is_worth_it(&self, count: u32) -> bool {
        count >= self.queue.wakes_at() && self.may_try()
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
        self.queue.remember(self.place, message);
    }
}
