//! A standby's worker. It sends records to the primary, and removes them from the queue when they
//! were replayed. A subscriber's worker sends them to the publisher, and removes them when the
//! publisher has acknowledged them.
//!
//! A record stays in the queue until the row that says it is stored has been replayed here. So
//! whatever ends, and whenever, the tables of this server say what to leave out: when the rest is
//! sent again, and when this server stores it itself after a promotion.

use crate::catalog::Catalog;
use crate::usage::node::Node;
use crate::usage::queue::Queue;
use crate::usage::queue::unknown::Unknown;
use crate::usage::restart::{backlog, losses};
use crate::usage::settings;
use crate::usage::standby::link::{self, Failed, Link, Unsent};
use crate::usage::standby::load::{Incarnation, Marks};
use crate::usage::standby::promotion::{replayed, subtract_replayed};
use crate::usage::transaction::{Failure, bare_transaction, extension_exists, without_snapshot};
use crate::usage::worker::backoff::{self, Backoff};
use crate::usage::worker::process;
use crate::usage::worker::process::{LOOKS_AROUND, STORES_UNKNOWN};
use keysmith_core::{parcel, unknown_tally};
use pg::clock::{monotonic, now};
use pg::lock::my_database_is_wanted;
use pg::server;
use pg::snapshot::let_go_of_catalog_snapshot;
use std::sync::atomic::Ordering::SeqCst;

/// How long to stay idle, in microseconds.
const STAYS: i64 = 30_000_000;
/// An open connection keeps the primary from dropping the database.
const KEEPS_CONNECTION: i64 = 2_000_000;

/// The longest wait for what was stored to be replayed.
const LONGEST_LOOK: i64 = 500_000;

pub struct Sender {
    queue: &'static Queue,
    place: usize,
    node: Node,
    link: Option<Link>,
    /// The newest record that was sent by this connection.
    sent_up_to: u64,
    /// Counts that were sent, and may have to be sent again.
    pending: Option<Unknown>,
    limit: u32,
    backoff: Backoff,
    looks_at: i64,
    look_wait: i64,
    sent_at: i64,
    unknown_at: i64,
    busy_at: i64,
    is_failing: bool,
    /// Whether the database is a subscriber, which does not receive the rows that are stored.
    is_subscriber: bool,
    subscribes_at: i64,
    /// Whether an earlier incarnation's records may still be there.
    looks_for_backlog: bool,
}

/// Why the sender ends.
#[derive(PartialEq, Eq)]
pub enum End {
    Promoted,
    Leaves,
}

impl Sender {
    pub fn new(queue: &'static Queue, place: usize) -> Sender {
        Sender {
            queue,
            place,
            node: Node::own(queue.node),
            link: None,
            sent_up_to: 0,
            pending: None,
            limit: settings::batch_size(),
            backoff: Backoff::new(),
            looks_at: 0,
            look_wait: backoff::SHORTEST,
            sent_at: 0,
            unknown_at: 0,
            busy_at: monotonic(),
            is_failing: false,
            is_subscriber: false,
            subscribes_at: 0,
            looks_for_backlog: true,
        }
    }

    pub fn run(&mut self) -> End {
        subtract_replayed(self.queue, self.place);
        loop {
            process::attend();
            if process::shutdown_requested() {
                return End::Leaves;
            }
            // On a standby, replay ends the processes of a database that was dropped.
            if !server::is_in_recovery() && my_database_is_wanted() {
                return End::Leaves;
            }
            self.look_whether_it_subscribes();
            if !server::is_in_recovery() && !self.is_subscriber {
                self.link = None;
                subtract_replayed(self.queue, self.place);
                return End::Promoted;
            }
            if self.backoff.may_try()
                && let Err(failed) = self.send_what_is_due()
            {
                self.failed(&failed);
            }
            self.take_out();
            let is_idle = self.is_empty();
            if !is_idle {
                self.busy_at = monotonic();
            } else if monotonic() - self.sent_at > KEEPS_CONNECTION {
                self.link = None;
            }
            if monotonic() - self.busy_at >= STAYS && process::step_down(self.queue, self.place) {
                return End::Leaves;
            }
            self.rest();
        }
    }

    fn look_whether_it_subscribes(&mut self) {
        if monotonic() >= self.subscribes_at {
            self.is_subscriber = subscribes();
            self.subscribes_at = monotonic() + LOOKS_AROUND;
        }
    }

    fn is_empty(&self) -> bool {
        self.queue.with(self.place, |database| database.is_empty()).unwrap_or(true)
    }

    fn send_what_is_due(&mut self) -> Result<(), Failed> {
        let looked = self.queue.with(self.place, |d| {
            let asked = std::mem::take(&mut d.worker.asked);
            (
                d.records.sequence > self.sent_up_to && d.records.count > 0,
                d.records.count,
                asked,
                d.unknown.is_empty(),
            )
        });
        let Some((has_news, count, is_asked, nothing_unknown)) = looked else { return Ok(()) };
        let is_due = is_asked
            || count >= self.queue.wakes_at()
            || monotonic() - self.sent_at >= settings::flush_interval();
        let counts_are_due = is_asked || monotonic() - self.unknown_at >= STORES_UNKNOWN;
        if self.looks_for_backlog {
            if backlog::exists() {
                self.connected()?;
            }
            backlog::deliver(self.queue, self.place, |incarnation, records| {
                self.hand_over(incarnation, records, &Unsent::default()).map(|_| ())
            })?;
        }
        self.looks_for_backlog = false;
        if has_news && is_due {
            // Records that come meanwhile wait: see the worker's `drain`.
            while self.send_records()? {
                process::attend();
                if process::shutdown_requested() {
                    return Ok(());
                }
            }
        }
        if counts_are_due && (self.pending.is_some() || !nothing_unknown) {
            self.unknown_at = monotonic();
            self.send_unknown()?;
        }
        Ok(())
    }

    /// Sends a batch. True if it was a full one: more may wait.
    fn send_records(&mut self) -> Result<bool, Failed> {
        self.connected()?;
        let batch = self.queue.peek_after(self.place, self.sent_up_to, self.limit);
        let Some(last) = batch.last() else { return Ok(false) };
        let mut records = Vec::new();
        for record in batch.iter() {
            parcel::add(&mut records, record.sequence, record.bytes);
        }
        match self.hand_over(&self.incarnation(), &records, &Unsent::default()) {
            Ok(marks) => {
                self.acknowledge(marks.last_sequence.unsigned_abs());
                self.sent_up_to = last;
                let is_full = batch.len() >= self.limit as usize;
                self.succeeded();
                Ok(is_full)
            }
            Err(failed) => {
                // Maybe it takes longer than the primary gives it.
                self.limit = (batch.len() / 2).max(1) as u32;
                Err(failed)
            }
        }
    }

    fn send_unknown(&mut self) -> Result<(), Failed> {
        self.connected()?;
        if self.pending.is_none() {
            self.pending = self.queue.with(self.place, |database| database.unknown);
        }
        let Some(copy) = self.pending else { return Ok(()) };
        let taken = copy.taken();
        let mut unsent = Unsent { mark: copy.seen, ..Unsent::default() };
        for count in taken.counts() {
            unknown_tally::add(&mut unsent.counts, count);
        }
        for (number, sample) in (1..).zip(&taken.samples) {
            parcel::add(&mut unsent.samples, number, sample);
        }
        self.hand_over(&self.incarnation(), &[], &unsent)?;
        self.queue.with(self.place, |database| database.unknown.subtract(&copy));
        self.pending = None;
        self.succeeded();
        Ok(())
    }

    /// Opens the connection. An earlier connection may have reached another primary, so all records
    /// that are not replayed are sent again.
    fn connected(&mut self) -> Result<(), Failed> {
        if self.link.is_some() {
            return Ok(());
        }
        let place = link::conninfo()?.ok_or_else(|| Failed {
            message: "there is no subscription of a superuser, and keysmith.usage_conninfo and \
                      primary_conninfo are empty"
                .into(),
        })?;
        let node = self.node.clone();
        let link = in_transaction("connecting to the primary", || {
            let database = server::my_database_name();
            // The look-up took a snapshot.
            let_go_of_catalog_snapshot();
            Link::open(&place, &database, &node)
        })?;
        self.link = Some(link);
        self.sent_up_to = 0;
        self.report_lost()?;
        let marks = self.hand_over(&self.incarnation(), &[], &Unsent::default())?;
        self.acknowledge(marks.last_sequence.unsigned_abs());
        if self.pending.is_none() {
            let counted = marks.unknown_seen.unsigned_abs();
            self.queue.with(self.place, |database| database.unknown.subtract_up_to(counted));
        }
        Ok(())
    }

    /// Tells the primary of incarnations that ended suddenly, which it may never have heard of:
    /// each, as the server was then, and then the one after it, which did not start cleanly.
    fn report_lost(&self) -> Result<(), Failed> {
        let lost = losses::lost(server::my_database().to_u32(), self.queue);
        for lost in &lost {
            let named = |node: &Node, id, started_cleanly| Incarnation {
                node: node.clone(),
                id,
                most_waiting: lost.most_waiting,
                started_cleanly,
                dropped: 0,
                ..self.incarnation()
            };
            let ended = named(&lost.node, lost.incarnation, true);
            let next = named(&self.node, lost.until, false);
            self.hand_over(&ended, &[], &Unsent::default())?;
            self.hand_over(&next, &[], &Unsent::default())?;
        }
        losses::forget(&lost);
        Ok(())
    }

    fn acknowledge(&self, sequence: u64) {
        if let Some(signals) = self.queue.signals.get(self.place) {
            signals.acknowledged.store(sequence, SeqCst);
        }
    }

    fn acknowledged(&self) -> u64 {
        self.queue.signals.get(self.place).map_or(0, |signals| signals.acknowledged.load(SeqCst))
    }

    fn incarnation(&self) -> Incarnation {
        let dropped = self.queue.with(self.place, |database| database.counters.dropped);
        Incarnation {
            node: self.node.clone(),
            is_own: false,
            id: self.queue.incarnation,
            most_waiting: self.queue.most_waiting(),
            started_cleanly: self.queue.started_cleanly,
            dropped: i64::try_from(dropped.unwrap_or_default()).unwrap_or(i64::MAX),
        }
    }

    /// Hands something to the primary.
    fn hand_over(
        &self,
        incarnation: &Incarnation,
        records: &[u8],
        unsent: &Unsent,
    ) -> Result<Marks, Failed> {
        let Some(link) = &self.link else {
            return Err(Failed { message: "there is no connection".into() });
        };
        in_transaction("handing over usage", || link.hand_over(incarnation, records, unsent))
    }

    /// Takes out of the queue what is stored, as the tables here say. If much waits, the primary's
    /// answer is enough: room for new records is worth more than what a promotion in this moment
    /// could cost.
    fn take_out(&mut self) {
        let count = self.queue.with(self.place, |d| d.records.count).unwrap_or_default();
        if count == 0 || self.sent_up_to == 0 || monotonic() < self.looks_at {
            return;
        }
        let is_crowded = count > self.queue.share / 2;
        let stored = if self.is_subscriber {
            self.acknowledged()
        } else {
            let replayed = replayed(self.queue);
            let replayed = replayed.map_or(0, |marks| marks.last_sequence.unsigned_abs());
            if is_crowded { replayed.max(self.acknowledged()) } else { replayed }
        };
        let gone = self.queue.peek_up_to(self.place, stored);
        if !gone.is_empty() {
            let amendments = gone.amendments() as u64;
            let events = gone.len() as u64 - amendments;
            self.queue.take_out(self.place, gone, |counters| {
                counters.stored += events;
                counters.amendments += amendments;
            });
            self.queue.with(self.place, |database| database.worker.last_flush = now());
            self.look_wait = backoff::SHORTEST;
        } else {
            self.look_wait = (self.look_wait * 2).min(LONGEST_LOOK);
        }
        self.looks_at = monotonic() + self.look_wait;
    }

    fn succeeded(&mut self) {
        self.limit = self.limit.saturating_mul(2).min(settings::batch_size());
        self.backoff.succeed();
        self.looks_at = 0;
        self.sent_at = monotonic();
        self.is_failing = false;
    }

    fn failed(&mut self, failed: &Failed) {
        // After any failure a new connection is opened.
        self.link = None;
        self.note(&failed.message);
        if !self.is_failing {
            self.is_failing = true;
            let to = if self.is_subscriber { "publisher" } else { "primary" };
            pgrx::warning!("keysmith: usage can't be handed to the {to}: {}", failed.message);
        }
        if !extension_exists() {
            self.discard();
        }
        self.backoff.fail();
    }

    fn note(&self, message: &str) {
        self.queue.remember(self.place, message);
    }

    fn discard(&mut self) {
        backlog::discard_all(self.queue, self.place);
        self.pending = None;
    }

    fn rest(&self) {
        let (count, newest) = self
            .queue
            .with(self.place, |d| (d.records.count, d.records.sequence))
            .unwrap_or_default();
        let until = |moment: i64| (moment - monotonic()).clamp(0, LOOKS_AROUND);
        let to_send = if count == 0 || newest <= self.sent_up_to {
            LOOKS_AROUND
        } else {
            until((self.sent_at + settings::flush_interval()).max(self.backoff.until()))
        };
        let to_look =
            if count == 0 || self.sent_up_to == 0 { LOOKS_AROUND } else { until(self.looks_at) };
        pg::latch::wait((to_send.min(to_look) / 1000).max(1));
    }
}

/// Whether the database is a subscriber. False if that can't be found out: the extension may be gone.
pub fn subscribes() -> bool {
    bare_transaction("looking for a subscription", || Ok(Catalog::open()?.is_subscriber()))
        .unwrap_or(false)
}

/// Runs something that talks to the primary in a transaction, for the memory it needs. It has no
/// snapshot, so that replay does not wait for it: the primary's commit may wait for replay.
fn in_transaction<T>(what: &str, body: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
    let outcome = without_snapshot(what, || Ok(body()));
    outcome.unwrap_or_else(|Failure { message, .. }| Err(Failed { message }))
}
