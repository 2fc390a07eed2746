//! Batches: records of the queue become rows, each once, whatever fails in between.

use crate::settings::max_unsettled;
use crate::usage::queue::Queue;
use crate::usage::queue::unknown::Unknown;
use crate::usage::restart::backlog;
use crate::usage::restart::incarnations::{CurrentIncarnation, Progress};
use crate::usage::session::worker_slot;
use crate::usage::settings;
use crate::usage::store::insert::{self, Numbers, Stored};
use crate::usage::store::partitions;
use crate::usage::store::quarantine;
use crate::usage::store::settled;
use crate::usage::store::unknown_rows;
use crate::usage::transaction::{Failure, Outcome, transaction};
use crate::usage::worker::backoff::{self, Backoff};
use keysmith_core::counted::Counted;
use keysmith_core::event::Record;
use pg::clock::{monotonic, now};
use pg::spi;
use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;

/// How often a single record is tried before it is quarantined.
const TRIES: u32 = 3;

/// How long to wait before a backlog is tried again, in microseconds.
const BACKLOG_WAIT: i64 = 10_000_000;

pub struct Flusher {
    pub queue: &'static Queue,
    pub place: usize,
    incarnation: CurrentIncarnation,
    /// How many records are tried at a time: fewer after a failure, to find its cause.
    limit: u32,
    tries: u32,
    in_a_row: u32,
    backoff: Backoff,
    /// How many amendments were put back, because their events have not come.
    late: u32,
    /// The newest record that is known to be stored.
    stored_up_to: u64,
    /// When to look for a backlog; `None` once it is stored.
    backlog_at: Option<i64>,
    /// The requests without rows that were counted here.
    counted: Counted,
}

/// The result of a step.
#[derive(PartialEq, Eq)]
pub enum Step {
    Stored,
    Empty,
    Failed,
}

/// How long an amendment waits for its event, which may be pending in a session, in microseconds;
/// and how many wait at most.
const LATE_FOR: i64 = 60_000_000;
const MOST_LATE: usize = 1_000;

/// Amendments that found no event.
struct Unmatched {
    all: usize,
    /// Those that are tried again.
    late: Vec<Vec<u8>>,
}

/// Ids of requests without a row that amendments say the costs of.
fn costs(records: &[(i64, Record)], stored: &Stored) -> HashSet<[u8; 16]> {
    let of_one = |(_, record): &(i64, Record)| match record {
        Record::Amendment { request_id, told, .. } if told.spend.is_some() => Some(*request_id),
        _ => None,
    };
    records.iter().filter_map(of_one).filter(|id| stored.unmatched.contains(id)).collect()
}

/// `settled` are requests whose costs are in the totals nevertheless.
fn unmatched(records: &[(i64, Record)], stored: &Stored, settled: &HashSet<[u8; 16]>) -> Unmatched {
    let mut unmatched = Unmatched { all: 0, late: Vec::new() };
    let now = now();
    for (_, record) in records {
        let Record::Amendment { request_id, at, told } = record else { continue };
        if told.spend.is_some() && settled.contains(request_id) {
            continue;
        }
        if stored.given_up.contains(request_id) {
            unmatched.all += 1;
        } else if stored.unmatched.contains(request_id) {
            unmatched.all += 1;
            // If the clock was set, an amendment does not wait for long.
            if now.abs_diff(*at) < LATE_FOR.unsigned_abs() && unmatched.late.len() < MOST_LATE {
                unmatched.late.push(record.to_vec());
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
            backoff: Backoff::new(),
            late: 0,
            stored_up_to: 0,
            backlog_at: Some(0),
            counted: Counted::new(usize::try_from(max_unsettled()).unwrap_or_default()),
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

    /// Whether requests were counted that may still be settled. Another worker does not know them.
    pub fn has_unsettled(&mut self) -> bool {
        !self.counted.forget_old(now())
    }

    /// Whether something failed and will be tried again.
    pub fn has_failed(&self) -> bool {
        self.backoff.has_failed()
    }

    /// Whether anything but amendments without their events waits.
    pub fn has_news(&self) -> bool {
        self.queue
            .with(self.place, |d| d.records.count > self.late || !d.unknown.is_empty())
            .unwrap_or_default()
    }

    pub fn may_try(&self) -> bool {
        self.backoff.may_try()
    }

    /// Stores what waited when the server was shut down. Newer records don't wait for it.
    pub fn store_backlog(&mut self) {
        if self.backlog_at.is_some_and(|moment| monotonic() >= moment) {
            let stored = backlog::store(self.queue, self.place);
            self.backlog_at = stored.is_err().then(|| monotonic() + BACKLOG_WAIT);
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
            self.backoff.go_on();
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
            Ok((stored, settled)) => {
                let unmatched = unmatched(&records, &stored, &settled);
                let is_amendment =
                    |(_, record): &&(i64, Record)| matches!(record, Record::Amendment { .. });
                let amendments = records.iter().filter(is_amendment).count();
                drop(records);
                stored.kept.into_iter().for_each(|record| self.counted.keep(record));
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

    /// Stores records, and returns the ids of requests whose costs changed totals without their rows.
    fn store(
        &self,
        records: &[(i64, Record)],
        last: Option<u64>,
    ) -> Outcome<(Stored, HashSet<[u8; 16]>)> {
        let incarnation = self.queue.incarnation;
        let dropped = self.queue.with(self.place, |database| database.counters.dropped);
        transaction("storing", || {
            let stored =
                insert::records(records, Numbers::OfQueue { incarnation }, Some(&self.counted))?;
            self.incarnation.note(&Progress {
                from: self.stored_up_to,
                to: last.unwrap_or(self.stored_up_to),
                stored: stored.events,
                dropped: dropped.unwrap_or_default(),
            })?;
            // It depends on what is noted.
            let settled = settled::count(&costs(records, &stored))?;
            Ok((stored, settled))
        })
    }

    /// Whether more is stored than was known. Then the batch begins later.
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
        self.backoff.succeed();
    }

    /// Waits after a failure that may pass. After another one, looks for the record that can't be
    /// stored, in ever smaller batches, and quarantines it.
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
            return self.backoff.pause(backoff::SHORTEST);
        }
        let is_to_blame = !failure.is_passing && self.tries >= TRIES;
        if is_to_blame && self.in_a_row < quarantine::MOST_IN_A_ROW && self.quarantine(failure) {
            self.tries = 0;
            self.in_a_row += 1;
            self.backoff.reset_wait();
            self.limit = self.limit.saturating_mul(2).min(settings::batch_size());
            return;
        }
        self.backoff.fail();
    }

    /// Notes the first record in `usage_set_aside` instead.
    fn quarantine(&mut self, failure: &Failure) -> bool {
        let waiting = self.queue.peek(self.place, 1);
        let Some(record) = waiting.iter().next() else { return false };
        let Some(decoded) = Record::decode(record.bytes) else { return false };
        let incarnation = self.queue.incarnation;
        let done = transaction("quarantining a record", || {
            quarantine::note(incarnation, record.sequence as i64, &decoded, &failure.message)
        });
        if done.is_ok() {
            self.queue.take_out(self.place, waiting, |counters| counters.quarantined += 1);
            pgrx::warning!(
                "keysmith: a usage record can't be stored and is in usage_set_aside: {}",
                failure.message
            );
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

    /// Maintains the tables.
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

    /// Whether keys of some keyspace are disabled if they are not used.
    pub fn has_idle_limit(&self) -> bool {
        let found = transaction("looking for max_idle", || {
            spi::execute(
                "SELECT FROM keysmith_private.keyspace WHERE max_idle IS NOT NULL LIMIT 1",
                &[],
            )
        });
        found.is_ok_and(|keyspaces| keyspaces > 0)
    }

    /// Makes the partitions of the next days.
    pub fn prepare(&mut self) {
        self.call("SELECT keysmith_private.usage_prepare()");
    }

    /// Makes the partitions that sessions wait for.
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

    /// Throws away what belongs to an extension that was dropped.
    pub fn discard(&mut self) {
        backlog::discard_all(self.queue, self.place);
    }

    /// Whether so many waiting records are stored before the flush interval ends.
    pub fn is_worth_it(&self, count: u32) -> bool {
        count >= self.queue.wakes_at() && self.may_try()
    }

    /// Notes that something failed. It is tried again.
    pub fn could_not(&mut self, failure: &Failure) {
        self.remember(&failure.message);
        pgrx::warning!("keysmith: usage can't be stored: {}", failure.message);
        self.backoff.fail();
    }

    /// Keeps an error for `usage_status`.
    pub fn remember(&self, message: &str) {
        self.queue.remember(self.place, message);
    }
}
