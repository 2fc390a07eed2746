//! Records that the transaction itself stores, just before it commits: where the library is not
//! preloaded, where the queue is full, or where `usage_durability` is `commit`.

use crate::catalog::Catalog;
use crate::usage::session::worker_slot;
use crate::usage::session::worker_slot::drop_record;
use crate::usage::settings;
use crate::usage::store::insert;
use crate::usage::store::partitions;
use keysmith_core::event::{Learned, Record};
use pg::attempt::subtransaction;
use pg::error::Result;
use pg::transaction;
use std::cell::{Cell, RefCell};

/// So many are stored before the commit, so that a transaction that decides millions of times
/// does not fill the memory.
const MOST_KEPT: usize = 5_000;
/// How many are kept within a savepoint, which may be rolled back: there none is stored early.
const MOST_IN_SAVEPOINT: usize = 50_000;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WRITTEN: Cell<Written> = const { Cell::new(Written::NOTHING) };
    /// The place of the database, if its worker waits: the records may not be written after all.
    static AWAITED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The events that the transaction has written. They are lost if it rolls back.
#[derive(Clone, Copy)]
struct Written {
    /// Events that are written and no longer kept.
    early: u64,
    /// Events among the kept records, once these are written.
    last: Option<u64>,
}

impl Written {
    const NOTHING: Written = Written { early: 0, last: None };
}

/// Whether one more record can be kept.
pub fn has_room() -> bool {
    KEPT.with_borrow(|kept| kept.len() < MOST_IN_SAVEPOINT)
}

pub fn keep(record: &[u8]) {
    if AWAITED.get().is_none()
        && let Some((queue, place)) = worker_slot::place()
    {
        AWAITED.set(worker_slot::retain(queue, place));
    }
    KEPT.with_borrow_mut(|kept| kept.push(record.into()));
}

pub fn is_empty() -> bool {
    KEPT.try_with(|kept| kept.try_borrow().is_ok_and(|kept| kept.is_empty())).unwrap_or(true)
}

/// Removes the records that `takes` accepts.
pub fn give_away(takes: impl Fn(&[u8]) -> bool) {
    KEPT.with_borrow_mut(|kept| kept.retain(|record| !takes(record)));
}

/// Amends a record that is kept.
pub fn amend(request_id: &[u8; 16], told: Learned) -> bool {
    KEPT.with_borrow_mut(|kept| {
        for record in kept.iter_mut().rev() {
            if let Some(Record::Event(mut event)) = Record::decode(record)
                && event.request_id == *request_id
            {
                let weights = event.learned.merged_weights(&told);
                event.learned = event.learned.amended(told);
                event.learned.weights = weights.as_deref().or(event.learned.weights);
                *record = Record::Event(event).to_vec().into();
                return true;
            }
        }
        false
    })
}

/// Writes what is kept if it is much. Records that can't be written go to `to`.
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
/// about to commit: until it ends, no other session can make one.
fn has_partitions() -> bool {
    KEPT.with_borrow(|kept| {
        let newest = kept.iter().rev().find_map(|record| Record::decode(record));
        partitions::missing(partitions::times(newest.iter())).is_empty()
    })
}

/// Writes what is kept, which stays until the commit is certain.
pub fn write_at_commit() {
    let last = write();
    WRITTEN.set(Written { last, ..WRITTEN.get() });
}

/// Forgets what the transaction has written, if it has committed. All else goes to `to`. Nothing
/// may fail here.
pub fn is_over(is_committed: bool, to: impl FnMut(&[u8])) {
    hand_over(is_committed, to);
    if let Some(place) = AWAITED.take() {
        worker_slot::release(place);
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

/// Stores what is kept, and returns the number of events. A failure does not make the transaction
/// fail, unless usage must be as durable as the rest of it.
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

/// The kept records, while they are being stored. They are put back, even after a failure: what
/// becomes of them is known when the transaction ends.
struct TakenOut(Vec<Box<[u8]>>);

impl Drop for TakenOut {
    fn drop(&mut self) {
        KEPT.with_borrow_mut(|kept| {
            let since = std::mem::replace(kept, std::mem::take(&mut self.0));
            kept.extend(since);
        });
    }
}

/// Stores records, and returns the number of events.
fn store(kept: &[Box<[u8]>]) -> Result<u64> {
    let catalog = Catalog::open()?;
    let records = kept.iter().filter_map(|record| Record::decode(record));
    let records: Vec<(i64, Record)> = records.map(|record| (0, record)).collect();
    let stored = transaction::with_snapshot(|| {
        catalog.as_owner(|| {
            insert::be_brief();
            insert::records(&records, insert::Numbers::OfSequence, None)
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

/// An amendment may overtake its event, which waits in a server's memory or in a transaction. The
/// worker tries again, as with other amendments.
pub fn wait_for_its_event(amendment: &Record) {
    match worker_slot::find_place() {
        Some((queue, place)) if queue.push(place, &amendment.to_vec()) => {
            worker_slot::ensure(queue, place);
        }
        Some((queue, place)) => queue.count(place, |counters| counters.unmatched += 1),
        None => drop_record(),
    }
}
