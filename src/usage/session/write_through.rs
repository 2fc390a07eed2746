//! Records that the transaction itself stores, just before it commits: where the
//! library is not preloaded, where the queue is full, or where that was asked for.

use crate::catalog::Catalog;
use crate::usage::session::worker_slot;
use crate::usage::session::worker_slot::drop_record;
use crate::usage::settings;
use crate::usage::store::batch;
use crate::usage::store::partitions;
use keysmith_core::event::{Learned, MAX_LEN, Record};
use pg::attempt::subtransaction;
use pg::error::Result;
use pg::transaction;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;

/// More of them are stored at once, lest a transaction that decides millions of times
/// fill the memory.
const MOST_KEPT: usize = 5_000;
/// So many are kept where that can't be: within a savepoint, which may be rolled back.
const MOST_IN_SAVEPOINT: usize = 50_000;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WRITTEN: Cell<Written> = const { Cell::new(Written::NOTHING) };
    /// The database's place whose worker waits for what may not be written after all.
    static AWAITED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What the transaction has written, and may yet lose by rolling back.
#[derive(Clone, Copy)]
struct Written {
    /// Events of which nothing is kept any more.
    early: u64,
    /// Events among those that are kept, if these are written.
    last: Option<u64>,
}

impl Written {
    const NOTHING: Written = Written { early: 0, last: None };
}

/// Whether one more can be kept.
pub fn has_room() -> bool {
    KEPT.with_borrow(|kept| kept.len() < MOST_IN_SAVEPOINT)
}

pub fn keep(record: &[u8]) {
    if AWAITED.get().is_none()
        && let Some((queue, place)) = worker_slot::place()
        && let Some(signals) = queue.signals.get(place)
    {
        signals.pending.fetch_add(1, SeqCst);
        AWAITED.set(Some(place));
    }
    KEPT.with_borrow_mut(|kept| kept.push(record.into()));
}

pub fn is_empty() -> bool {
    KEPT.try_with(|kept| kept.try_borrow().is_ok_and(|kept| kept.is_empty())).unwrap_or(true)
}

/// Lets go of what someone else takes.
pub fn give_away(takes: impl Fn(&[u8]) -> bool) {
    KEPT.with_borrow_mut(|kept| kept.retain(|record| !takes(record)));
}

/// Puts what was told over a record that is kept.
pub fn amend(request_id: &[u8; 16], told: Learned) -> bool {
    KEPT.with_borrow_mut(|kept| {
        for record in kept.iter_mut().rev() {
            if let Some(Record::Event(mut event)) = Record::decode(record)
                && event.request_id == *request_id
            {
                event.learned = event.learned.amended(told);
                let mut room = [0; MAX_LEN];
                let length = Record::Event(event).encode(&mut room);
                *record = room.get(..length).unwrap_or_default().into();
                return true;
            }
        }
        false
    })
}

/// Records that can't be written go to another writer.
pub fn write_if_many(mut to: impl FnMut(&[u8])) {
    let is_due = KEPT.with_borrow(|kept| kept.len() >= MOST_KEPT);
    if is_due && !transaction::is_parallel() && transaction::nest_level() == 1 && has_partitions() {
        let written = write();
        let kept = KEPT.with_borrow_mut(std::mem::take);
        match written {
            Some(events) => {
                let before = WRITTEN.get();
                WRITTEN.set(Written { early: before.early + events, ..before });
            }
            None => kept.iter().for_each(|record| to(record)),
        }
    }
}

/// Whether the newest record's day has its partition. A transaction makes one only when it is
/// about to commit: until it ends, nobody else can.
fn has_partitions() -> bool {
    KEPT.with_borrow(|kept| {
        let newest = kept.iter().rev().find_map(|record| Record::decode(record));
        partitions::missing(newest.iter()).is_empty()
    })
}

/// Writes what is kept, which stays until the commit is certain.
pub fn write_at_commit() {
    let last = write();
    WRITTEN.set(Written { last, ..WRITTEN.get() });
}

/// Forgets what the transaction has written, if it has committed. Otherwise, and what it
/// could not write, goes to someone else, at a moment when nothing may fail.
pub fn is_over(is_committed: bool, to: impl FnMut(&[u8])) {
    hand_over(is_committed, to);
    if let Some(place) = AWAITED.take()
        && let Some((queue, _)) = worker_slot::place()
        && let Some(signals) = queue.signals.get(place)
    {
        signals.pending.fetch_sub(1, SeqCst);
    }
}

fn hand_over(is_committed: bool, mut to: impl FnMut(&[u8])) {
    let written = WRITTEN.replace(Written::NOTHING);
    let kept = KEPT.try_with(|kept| {
        kept.try_borrow_mut().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
    });
    if is_committed {
        let events = written.early + written.last.unwrap_or_default();
        if events > 0
            && let Some((queue, place)) = worker_slot::place()
        {
            queue.count(place, |counters| counters.written_through += events);
        }
        if written.last.is_some() {
            return;
        }
    } else {
        (0..written.early).for_each(|_| drop_record());
    }
    kept.unwrap_or_default().iter().for_each(|record| to(record));
}

/// Stores what is kept, and tells how many events. That it can't be stored is no reason for
/// the transaction to fail, unless usage is to be as durable as the rest of it.
fn write() -> Option<u64> {
    let kept = TakenOut(KEPT.with_borrow_mut(std::mem::take));
    if settings::is_durable() {
        let events = store(&kept.0).unwrap_or_else(|error| pgrx::error!("{}", error.message()));
        transaction::force_sync_commit();
        return Some(events);
    }
    let written = subtransaction(|| store(&kept.0));
    if let Err(failure) = &written {
        let (count, message) = (kept.0.len(), &failure.message);
        pgrx::log!("keysmith: usage of {count} requests could not be written: {message}");
    }
    written.ok()
}

/// What is kept, while it is being stored. It is put back, also if that fails: the
/// transaction's end says what becomes of it.
struct TakenOut(Vec<Box<[u8]>>);

impl Drop for TakenOut {
    fn drop(&mut self) {
        KEPT.with_borrow_mut(|kept| {
            let since = std::mem::replace(kept, std::mem::take(&mut self.0));
            kept.extend(since);
        });
    }
}

/// Stores records, and tells how many events they were.
fn store(kept: &[Box<[u8]>]) -> Result<u64> {
    let catalog = Catalog::open()?;
    let records = kept.iter().filter_map(|record| Record::decode(record));
    let records: Vec<(i64, Record)> = records.map(|record| (0, record)).collect();
    let stored = transaction::with_snapshot(|| {
        catalog.as_owner(|| {
            batch::be_brief();
            batch::records(&records, batch::Numbers::OfSequence)
        })
    })?;
    for (_, record) in &records {
        if let Record::Amendment { request_id, .. } = record
            && stored.unmatched.contains(request_id)
        {
            wait_for_its_event(record);
        }
    }
    Ok(stored.events as u64)
}

/// An amendment may overtake its event, which waits in some server's memory, or in a
/// transaction: the worker tries again, as it does with its own.
pub fn wait_for_its_event(amendment: &Record) {
    let mut room = [0; MAX_LEN];
    let length = amendment.encode(&mut room);
    match worker_slot::find_place() {
        Some((queue, place)) if queue.push(place, room.get(..length).unwrap_or_default()) => {
            worker_slot::ensure(queue, place);
        }
        Some((queue, place)) => queue.count(place, |counters| counters.unmatched += 1),
        None => drop_record(),
    }
}
