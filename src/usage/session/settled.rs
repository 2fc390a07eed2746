//! What requests of this transaction's settlements cost, for their records.
//!
//! A settlement takes part in the transaction, and with savepoints, as the row of its charge does. So the
//! rows are looked at just before the commit, and the records are amended after it.

use crate::catalog::{Catalog, columns};
use crate::usage::session::worker_slot::{self, drop_record};
use crate::usage::settings;
use crate::usage::store::{self, insert};
use keysmith_core::event::{Learned, MAX_LEN, MOST_SPEND, Record};
use pg::attempt::subtransaction;
use pg::scan::{ScanKey, Snapshot};
use pg::{clock, transaction};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// How many are sent to the queue after a commit. The transaction amends the rows of more itself.
const MOST_SENT: usize = 1_000;
/// How many are kept. Then the transaction amends the rows at once.
const MOST: usize = 10_000;
/// How many are kept within a savepoint, which may be rolled back.
const MOST_IN_SAVEPOINT: usize = 50_000;

#[derive(Clone, Copy)]
struct Settled {
    request_id: [u8; 16],
    spend: i64,
}

impl Settled {
    fn told(self) -> Learned<'static> {
        Learned { spend: Some(self.spend.min(MOST_SPEND)), ..Learned::default() }
    }
}

thread_local! {
    static SETTLED: RefCell<Vec<Settled>> = const { RefCell::new(Vec::new()) };
    /// The place of the database, if its worker waits for what is told after the commit.
    static AWAITED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Notes what a request cost after all. The transaction has settled it.
pub fn note(request_id: &[u8; 16], cost: i64) {
    if AWAITED.get().is_none()
        && let Some((queue, place)) = worker_slot::find_place()
    {
        AWAITED.set(worker_slot::retain(queue, place));
        worker_slot::ensure(queue, place);
    }
    let count = SETTLED.with_borrow(Vec::len);
    if count >= MOST && transaction::nest_level() == 1 {
        amend_rows(Totals::Changed);
        // Those without a row are of requests that are not stored yet. These are few.
        let too_many = SETTLED.with_borrow_mut(|settled| {
            let too_many = settled.len().saturating_sub(MOST / 2);
            settled.drain(..too_many).count()
        });
        (0..too_many).for_each(|_| count_unmatched());
    }
    if count >= MOST_IN_SAVEPOINT {
        return count_unmatched();
    }
    SETTLED.with_borrow_mut(|settled| {
        settled.push(Settled { request_id: *request_id, spend: cost });
    });
}

/// Amends the rows of usage in the transaction, where its records must be as durable as the rest of it, or
/// where no worker can do it. Keeps what is to be told after the commit.
pub fn before_commit() {
    let count = SETTLED.with_borrow(Vec::len);
    if count == 0 {
    } else if worker_slot::place().is_none() {
        amend_rows(Totals::Changed);
    } else if count > MOST_SENT || settings::is_durable() {
        amend_rows(Totals::Kept);
    } else {
        keep_valid();
    }
}

/// Amends the rows in the transaction: nothing here would notice its commit. A request that is not stored
/// yet keeps what it spent at first.
pub fn before_prepare() {
    if SETTLED.with_borrow(|settled| !settled.is_empty()) {
        amend_rows(Totals::Changed);
        SETTLED.take().iter().for_each(|_| count_unmatched());
    }
}

/// Sends the amendments if the transaction has committed. Nothing may fail here.
pub fn transaction_is_over(is_committed: bool) {
    let settled = SETTLED.try_with(|settled| {
        settled.try_borrow_mut().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    });
    if is_committed {
        settled.unwrap_or_default().into_iter().for_each(send);
    }
    if let Ok(Some(place)) = AWAITED.try_with(Cell::take) {
        worker_slot::release(place);
    }
}

fn send(settled: Settled) {
    let Settled { request_id, .. } = settled;
    let record = Record::Amendment { request_id, at: clock::now(), told: settled.told() };
    let mut room = [0; MAX_LEN];
    let length = record.encode(&mut room);
    let record = room.get(..length).unwrap_or_default();
    if worker_slot::place().is_none_or(|(queue, place)| !queue.push(place, record)) {
        count_unmatched();
    }
}

fn count_unmatched() {
    match worker_slot::place() {
        Some((queue, place)) => queue.count(place, |counters| counters.unmatched += 1),
        None => drop_record(),
    }
}

/// Removes those whose settlement was rolled back with a savepoint.
fn keep_valid() {
    let settled = SETTLED.take();
    // The transaction may have dropped the extension.
    let Ok(catalog) = Catalog::open() else { return };
    let relation = catalog.tables.charge.open();
    transaction::increment_command_counter();
    let snapshot = Snapshot::now();
    let is_valid = |settled: &Settled| {
        let by_id = ScanKey::uuid(columns::charge::request_id, &settled.request_id);
        let mut scan = relation.scan(&snapshot, [by_id]);
        scan.next().is_some_and(|row| {
            row.timestamp(columns::charge::settled_at).is_some()
                && row.bigint(columns::charge::settled) == Some(settled.spend)
        })
    };
    let mut seen = HashSet::new();
    let valid = settled.into_iter().filter(is_valid).filter(|one| seen.insert(one.request_id));
    let valid = valid.collect();
    SETTLED.replace(valid);
}

/// Whether totals of requests without rows change in the transaction, though the worker may know them better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Totals {
    Changed,
    Kept,
}

/// Amends the rows that are stored. Keeps what is told to the worker after the commit.
fn amend_rows(totals: Totals) {
    keep_valid();
    let told: HashMap<[u8; 16], Learned> = SETTLED.with_borrow(|settled| {
        settled.iter().map(|settled| (settled.request_id, settled.told())).collect()
    });
    if told.is_empty() {
        return;
    }
    let amended = subtransaction(|| {
        let catalog = Catalog::open()?;
        transaction::with_snapshot(|| {
            catalog.as_owner(|| {
                insert::be_brief();
                let mut unmatched = insert::amend(&told)?;
                if totals == Totals::Changed {
                    let counted = store::settled::count(&unmatched)?;
                    unmatched.retain(|request_id| !counted.contains(request_id));
                }
                Ok(unmatched)
            })
        })
    });
    let unmatched: HashSet<[u8; 16]> = amended.unwrap_or_else(|failure| {
        let message = &failure.message;
        pgrx::log!("keysmith: what {} requests cost could not be written: {message}", told.len());
        told.keys().copied().collect()
    });
    SETTLED.with_borrow_mut(|settled| settled.retain(|one| unmatched.contains(&one.request_id)));
}
