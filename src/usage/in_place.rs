//! Records that the transaction itself stores, just before it commits: where the
//! library is not preloaded, where the ring is full, or where that was asked for.

use super::{drop_record, settings, store};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::manage::authority;
use crate::manage::sql;
use keysmith_core::event::{Learned, MAX_LEN, Record};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;

/// More of them are stored at once, lest a transaction that decides millions of times
/// fill the memory.
const MOST_KEPT: usize = 5_000;

/// In microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

thread_local! {
    /// The day for which this backend knows that there is a partition.
    static PREPARED: Cell<i64> = const { Cell::new(i64::MIN) };
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

pub fn keep(record: &[u8]) {
    KEPT.with_borrow_mut(|kept| kept.push(record.into()));
}

pub fn is_empty() -> bool {
    KEPT.try_with(|kept| kept.try_borrow().is_ok_and(|kept| kept.is_empty())).unwrap_or(true)
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

pub fn write_if_many() {
    // SAFETY: asks for the state of the transaction.
    let is_parallel = unsafe { pg_sys::IsInParallelMode() };
    if !is_parallel && KEPT.with_borrow(|kept| kept.len() >= MOST_KEPT) {
        write();
    }
}

/// Hands what is kept to someone else, at a moment when it can no more be written.
pub fn give_up(mut to: impl FnMut(&[u8])) {
    let kept = KEPT.try_with(|kept| {
        kept.try_borrow_mut().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
    });
    kept.unwrap_or_default().iter().for_each(|record| to(record));
}

/// Stores what is kept. What can't be stored is counted, and is no reason for the
/// transaction to fail, unless usage is to be as durable as the rest of it.
pub fn write() {
    let kept = KEPT.with_borrow_mut(std::mem::take);
    if settings::is_durable() {
        if let Err(error) = store(&kept) {
            pgrx::error!("{}", error.message());
        }
        // SAFETY: sets a flag of the transaction: its commit is flushed.
        unsafe { pg_sys::ForceSyncCommit() };
    } else if let Err(why) = in_subtransaction(|| store(&kept)) {
        kept.iter().for_each(|_| drop_record());
        pgrx::log!("keysmith: usage of {} requests could not be written: {why}", kept.len());
    }
}

fn store(kept: &[Box<[u8]>]) -> Result<()> {
    let catalog = Catalog::open()?;
    let records = kept.iter().filter_map(|record| Record::decode(record));
    let records: Vec<(i64, Record)> = records.map(|record| (0, record)).collect();
    // SAFETY: what statements at the end of a transaction need; popped below, or with
    // the (sub)transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let stored = authority::as_owner(&catalog, || {
        store::be_brief();
        prepare()?;
        store::records(&records, store::Numbers::OfSequence)
    })?;
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    if let Some((ring, place)) = super::presence::place() {
        ring.count(place, |counters| counters.written_through += stored.events as u64);
    }
    Ok(())
}

/// Sees to it that there are partitions, once a day, and again after a failure.
pub fn prepare() -> Result<()> {
    // SAFETY: reads the clock.
    let today = unsafe { pg_sys::GetCurrentTimestamp() }.div_euclid(DAY);
    if PREPARED.get() != today {
        sql::execute("SELECT keysmith.usage_prepare()", &[])?;
        PREPARED.set(today);
    }
    Ok(())
}

/// Runs something that may fail. If it does, it has no effect.
fn in_subtransaction(body: impl FnOnce() -> Result<()>) -> std::result::Result<(), String> {
    // SAFETY: what PL/pgSQL does for a block with an exception handler.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let done = pgrx::PgTryBuilder::new(AssertUnwindSafe(|| {
            body().map_err(|error| error.message().into())
        }))
        .catch_others(|error| Err(super::transaction::message(&error)))
        .execute();
        if done.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            PREPARED.set(i64::MIN);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        done
    }
}
