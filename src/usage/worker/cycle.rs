//! The background worker of a database. It is started by the first record, and leaves when there
//! were none for a while, or when another session needs the database for itself.

use crate::usage::session::worker_slot::{self, ABSENT, STARTING};
use crate::usage::settings;
use crate::usage::standby::sender::subscribes;
use crate::usage::transaction::extension_exists;
use crate::usage::worker::credit_events::CreditEvents;
use crate::usage::worker::flush::{Flusher, Step};
use crate::usage::worker::idle::IdleKeys;
use crate::usage::worker::key_ends::KeyEnds;
use crate::usage::worker::ledgers::Ledgers;
use crate::usage::worker::process::{
    LOOKS_AROUND, STORES_UNKNOWN, attend, server_is_stopping, shutdown_requested, step_down,
};
use pg::clock::monotonic;
use pg::lock::my_database_is_wanted;
use pg::server::backends_of_my_database;
use pg::worker::forget_cancellation;
use std::sync::atomic::Ordering::SeqCst;

const MAINTAINS: i64 = 60_000_000;
/// How many portions of the keys it looks at without a break.
const MOST_PORTIONS: u32 = 50;
/// It leaves after so many idle flush intervals. PostgreSQL has eight processes for all workers by
/// default.
const IDLE_INTERVALS: i64 = 10;
/// How long another database is taken to want a process after it got none, in microseconds.
const STARVED_FOR: i64 = 5_000_000;

/// How long the worker of a stopping server waits for the last records of the other backends.
const WAITS_FOR_OTHERS: i64 = 3_000_000;
const WAITS_FOR_PENDING: i64 = 10_000_000;
/// How often to try at least: the signal itself may have ended an attempt.
const LAST_TRIES: u32 = 3;

pub struct Worker {
    flusher: Flusher,
    is_open: bool,
    flushed_at: i64,
    unknown_at: i64,
    maintained_at: i64,
    /// Whether something was stored since.
    has_stored: bool,
    idle_keys: IdleKeys,
    key_ends: KeyEnds,
    credit_events: CreditEvents,
    ledgers: Ledgers,
    busy_at: i64,
}

/// Why the worker ends.
#[derive(PartialEq, Eq)]
pub enum End {
    Subscribes,
    Leaves,
}

impl Worker {
    pub fn new(flusher: Flusher) -> Worker {
        let start = monotonic();
        Worker {
            flusher,
            is_open: false,
            flushed_at: 0,
            unknown_at: 0,
            maintained_at: start,
            has_stored: false,
            idle_keys: IdleKeys::new(),
            key_ends: KeyEnds::new(),
            credit_events: CreditEvents::default(),
            ledgers: Ledgers::default(),
            busy_at: start,
        }
    }

    pub fn run(&mut self) -> End {
        loop {
            attend();
            if shutdown_requested() {
                self.shut_down();
                return End::Leaves;
            }
            if my_database_is_wanted() {
                self.make_way();
                return End::Leaves;
            }
            // Once there is a subscription, the publisher stores the records.
            if subscribes() {
                return End::Subscribes;
            }
            if !self.is_open && self.flusher.may_try() && !self.open() {
                return End::Leaves;
            }
            if self.is_open {
                self.flusher.make_wanted();
                self.flusher.store_backlog();
                self.flush_if_due();
                if monotonic() - self.maintained_at >= MAINTAINS {
                    self.maintain();
                }
                self.note_key_ends();
                self.note_credit_events();
                if self.ledgers.is_due() {
                    self.close_ledgers();
                }
            }
            // If no other database wants the process.
            if self.patience() > 0 && self.flusher.has_unsettled() {
                self.busy_at = monotonic();
            }
            if monotonic() - self.busy_at >= self.patience() && self.leave() {
                return End::Leaves;
            }
            self.wait();
        }
    }

    /// Prepares the first batch. False if the worker has left.
    fn open(&mut self) -> bool {
        if !extension_exists() {
            self.flusher.discard();
            return !self.leave();
        }
        self.flusher.prepare();
        match self.flusher.open() {
            Ok(()) => {
                self.is_open = true;
                self.flusher.store_backlog();
            }
            Err(failure) => self.flusher.could_not(&failure),
        }
        true
    }

    fn flush_if_due(&mut self) {
        let Some((count, is_asked)) =
            self.flusher.queue.with(self.flusher.place, |d| (d.records.count, d.worker.asked))
        else {
            return;
        };
        let is_due = monotonic() - self.flushed_at >= settings::flush_interval()
            || (self.flusher.has_failed() && self.flusher.may_try());
        if (count > 0 && is_due) || is_asked || self.flusher.is_worth_it(count) {
            self.flusher.queue.with(self.flusher.place, |d| d.worker.asked = false);
            self.flushed_at = monotonic();
            self.drain();
        }
        if is_asked || monotonic() - self.unknown_at >= STORES_UNKNOWN {
            self.unknown_at = monotonic();
            if self.flusher.unknown() == Step::Stored {
                self.busy_at = monotonic();
            }
        }
    }

    fn maintain(&mut self) {
        self.maintained_at = monotonic();
        self.has_stored = false;
        if self.still_has_extension() {
            self.flusher.maintain();
            self.disable_idle_keys();
        }
    }

    /// Disables keys that are not used. Nothing is known of their use while records can't be stored.
    fn disable_idle_keys(&mut self) {
        if !self.idle_keys.is_due() || !self.flusher.has_idle_limit() {
            return;
        }
        for _ in 0..MOST_PORTIONS {
            if !self.drain() {
                return;
            }
            match self.idle_keys.look() {
                Ok(true) => {}
                Ok(false) => return,
                Err(failure) => {
                    self.flusher.remember(&failure.message);
                    pgrx::warning!("keysmith: idle keys are not disabled: {}", failure.message);
                    return;
                }
            }
        }
    }

    /// Notes the keys that end. Records go first: each portion is followed by what waits.
    fn note_key_ends(&mut self) {
        if !self.key_ends.is_due() {
            return;
        }
        match self.key_ends.look() {
            Ok(has_more) => {
                if has_more || self.key_ends.are_expected() && self.patience() > 0 {
                    self.busy_at = monotonic();
                }
            }
            Err(failure) => {
                self.flusher.remember(&failure.message);
                pgrx::warning!("keysmith: ends of keys are not noted: {}", failure.message);
            }
        }
    }

    fn note_credit_events(&mut self) {
        if !self.credit_events.is_due() {
            return;
        }
        match self.credit_events.look() {
            Ok(true) => self.busy_at = monotonic(),
            Ok(false) => {}
            Err(failure) => {
                self.flusher.remember(&failure.message);
                pgrx::warning!("keysmith: events of credits are not noted: {}", failure.message);
            }
        }
    }

    /// Closes blocks of ledgers. False if none was closed.
    fn close_ledgers(&mut self) -> bool {
        match self.ledgers.look() {
            Ok(has_closed) => has_closed,
            Err(failure) => {
                self.flusher.remember(&failure.message);
                pgrx::warning!("keysmith: blocks of ledgers are not closed: {}", failure.message);
                false
            }
        }
    }

    /// Whether it has to stay for ledgers. It closes their blocks before it leaves.
    fn stays_for_ledgers(&mut self) -> bool {
        if !self.is_open || !self.ledgers.are_open() {
            return false;
        }
        let waits = self.patience() > 0 && !self.ledgers.is_due();
        waits || self.close_ledgers()
    }

    /// Stores what had come when it began, batch after batch. Records that come meanwhile wait. Under
    /// load there would be no end of small batches otherwise, and a batch of ten records costs much
    /// the same as one of thousands. True if all of it is stored.
    fn drain(&mut self) -> bool {
        let newest = self.flusher.queue.with(self.flusher.place, |d| d.records.sequence);
        while self.flusher.may_try() && !shutdown_requested() && !my_database_is_wanted() {
            match self.flusher.batch() {
                Step::Empty => return true,
                Step::Stored => {
                    self.busy_at = monotonic();
                    self.has_stored = true;
                    if newest.is_none_or(|newest| self.flusher.stored_up_to() >= newest) {
                        return true;
                    }
                }
                Step::Failed => {
                    self.busy_at = monotonic();
                    if !self.still_has_extension() {
                        return false;
                    }
                }
            }
            attend();
        }
        false
    }

    /// Throws away what waits if the extension was dropped.
    fn still_has_extension(&mut self) -> bool {
        if !extension_exists() {
            self.flusher.discard();
            self.is_open = false;
        }
        self.is_open
    }

    /// How long to stay idle: not at all if other databases wait for a process.
    fn patience(&self) -> i64 {
        if monotonic() - self.flusher.queue.starved_at.load(SeqCst) < STARVED_FOR {
            return 0;
        }
        settings::flush_interval().saturating_mul(IDLE_INTERVALS)
    }

    fn wait(&self) {
        let interval = settings::flush_interval();
        let count = self.flusher.queue.with(self.flusher.place, |d| d.records.count);
        let microseconds = if !self.flusher.may_try() {
            LOOKS_AROUND / 10
        } else if count == Some(0) {
            interval
        } else {
            (self.flushed_at + interval - monotonic()).max(0)
        };
        let milliseconds = (microseconds.min(LOOKS_AROUND) / 1000).max(1);
        pg::latch::wait(milliseconds);
    }

    /// Leaves after one batch, for a session that waits for the database. A new worker stores the
    /// rest. It can connect when that session has finished.
    fn make_way(&mut self) {
        if self.is_open && self.flusher.may_try() {
            self.flusher.batch();
        }
        self.leave_the_rest();
    }

    /// Has a new worker started for what is left.
    fn leave_the_rest(&self) {
        if self.flusher.is_empty() {
            return;
        }
        let (queue, place) = (self.flusher.queue, self.flusher.place);
        let Some(signals) = queue.signals.get(place) else { return };
        queue.with(place, |database| {
            database.worker.since = monotonic();
            database.worker.pid = 0;
            signals.worker.store(STARTING, SeqCst);
        });
        if !worker_slot::register() {
            queue.with(place, |database| {
                database.counters.failed_starts += 1;
                signals.worker.store(ABSENT, SeqCst);
            });
        }
    }

    /// Leaves if nothing waits. A session with a new record then sees that there is no worker.
    fn leave(&mut self) -> bool {
        if !self.flusher.is_empty() {
            self.busy_at = monotonic();
            return false;
        }
        if self.stays_for_ledgers() {
            self.busy_at = monotonic();
            return false;
        }
        // If requests are few, no worker may stay until it is time to maintain.
        if self.is_open && self.has_stored {
            self.maintain();
        }
        // Unused keys make no records. The worker stays for them, unless there is no other process.
        if self.is_open && self.patience() > 0 && self.flusher.has_idle_limit() {
            self.disable_idle_keys();
            self.busy_at = monotonic();
            return false;
        }
        if self.is_open && !self.flusher.close() && self.still_has_extension() {
            return false;
        }
        step_down(self.flusher.queue, self.flusher.place)
    }

    /// Stores what waits. When the server stops, waits for the other backends, which stop as well:
    /// their last records come now.
    fn shut_down(&mut self) {
        let mut start = monotonic();
        let mut tries = 0;
        loop {
            forget_cancellation();
            if is_being_dropped() {
                break self.leave_the_rest();
            }
            if !self.is_open {
                self.open();
            }
            while self.is_open
                && (tries == 0 || self.flusher.has_news())
                && self.flusher.batch() == Step::Stored
            {
                tries = tries.max(1);
                start = monotonic();
                if is_being_dropped() {
                    break;
                }
            }
            if self.is_open {
                self.flusher.unknown();
            }
            tries += 1;
            if !server_is_stopping() && (tries >= LAST_TRIES || self.flusher.is_empty()) {
                break self.leave_the_rest();
            }
            let signals = self.flusher.queue.signals.get(self.flusher.place);
            let is_pending = signals.is_some_and(|signals| signals.pending.load(SeqCst) > 0);
            let others = backends_of_my_database() > 1;
            let waited = monotonic() - start;
            let patience = if is_pending { WAITS_FOR_PENDING } else { WAITS_FOR_OTHERS };
            let waits = waited < patience && (others || self.flusher.has_news());
            if !waits && tries >= LAST_TRIES {
                break;
            }
            pg::latch::wait(10);
        }
        if self.is_open && self.flusher.is_empty() {
            self.flusher.close();
        }
    }
}

/// Whether the worker is told to end because the database is dropped by force. The session that
/// drops it waits five seconds, and records that would be stored are dropped with it.
fn is_being_dropped() -> bool {
    my_database_is_wanted() && !server_is_stopping()
}
