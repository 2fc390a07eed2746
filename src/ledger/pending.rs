//! What the transaction changed so far: sums for each ledger, in the session's memory. At its end,
//! the transaction inserts one difference for each ledger.

use super::entry::{Ledger, LedgerEntry, nonce, own_incarnation};
use crate::catalog::{Catalog, PRIVATE};
use crate::usage::session::worker_slot;
use keysmith_core::ledger::difference::{self, MOST_RANGES};
use keysmith_core::ledger::keys::LedgerId;
use keysmith_core::ledger::sums::Sums;
use pg::error::{Code, Error, Result};
use pg::scan::Snapshot;
use pg::spi::Param;
use pg::transaction::{self, PerTransaction};
use pg::{lookup, tuple};
use pgrx::pg_sys::SubTransactionId;
use std::cell::Cell;
use std::rc::Rc;

/// A row with fewer bytes than this is not toasted.
const SHORT: usize = 1500;

struct Change {
    ledger: Rc<Ledger>,
    sums: Sums,
}

thread_local! {
    static CHANGES: PerTransaction<Change> = const { PerTransaction::new() };
    /// Whether the transaction's differences are written. There can't be a second one.
    static IS_WRITTEN: Cell<bool> = const { Cell::new(false) };
    /// Whether the transaction has ended a ledger. Others can't end one whose table it has changed.
    static HAS_ENDED_SOME: Cell<bool> = const { Cell::new(false) };
}

/// Adds what a statement changed.
pub fn add(ledger: &Rc<Ledger>, sums: Sums) -> Result<()> {
    if IS_WRITTEN.get() {
        let message = "a table with a ledger can't be changed while the transaction commits";
        return Err(Error::new(Code::Conflict, message));
    }
    if sums.is_zero() {
        return Ok(());
    }
    let now = transaction::current_subtransaction();
    let change = Change { ledger: ledger.clone(), sums };
    CHANGES.with(|changes| changes.change(|list| must_fit(put(list, now, change))))
}

/// Adds a change to those of a subtransaction, which are the last ones. Returns in how many ranges it has
/// changed rows of this ledger.
fn put(
    list: &mut Vec<(SubTransactionId, Change)>,
    owner: SubTransactionId,
    change: Change,
) -> usize {
    let own = list.iter_mut().rev().take_while(|(by, _)| *by == owner);
    match own.map(|(_, own)| own).find(|own| own.is_of(change.ledger.id())) {
        Some(own) => {
            own.sums.add(&change.sums);
            own.sums.ranges()
        }
        None => {
            let ranges = change.sums.ranges();
            list.push((owner, change));
            ranges
        }
    }
}

/// Bounds the memory that the changes of a transaction take.
pub fn must_fit(ranges: usize) -> Result<()> {
    if ranges > MOST_RANGES { Err(too_many()) } else { Ok(()) }
}

/// What the transaction changed in a table so far.
pub fn changed(ledger: &LedgerId) -> Sums {
    CHANGES.with(|changes| changes.change(|list| total(list, ledger)))
}

fn total(list: &[(SubTransactionId, Change)], ledger: &LedgerId) -> Sums {
    let mut total = Sums::default();
    let theirs = list.iter().filter(|(_, change)| change.is_of(ledger));
    theirs.for_each(|(_, change)| total.add(&change.sums));
    total
}

impl Change {
    fn is_of(&self, ledger: &LedgerId) -> bool {
        self.ledger.id() == ledger
    }
}

impl Ledger {
    fn id(&self) -> &LedgerId {
        &self.entry.id
    }
}

/// Inserts the transaction's differences. It runs after all triggers that are deferred.
pub fn before_commit() -> Result<()> {
    let list = CHANGES.with(PerTransaction::take);
    if list.is_empty() {
        return Ok(());
    }
    IS_WRITTEN.set(true);
    // The transaction may have dropped the extension.
    if lookup::schema(PRIVATE).is_none() {
        return Ok(());
    }
    write(&list)?;
    worker_slot::want();
    Ok(())
}

fn write(list: &[(SubTransactionId, Change)]) -> Result<()> {
    let catalog = Catalog::open()?;
    for (place, (_, change)) in list.iter().enumerate() {
        let id = change.ledger.id();
        if list.iter().take(place).any(|(_, before)| before.is_of(id)) {
            continue;
        }
        let sums = total(list, id);
        let exists = || {
            change.ledger.register == catalog.tables.ledger.table
                && (!HAS_ENDED_SOME.get()
                    || LedgerEntry::find(&catalog, &Snapshot::now(), id).is_some())
        };
        if sums.is_zero() || !exists() {
            continue;
        }
        let (keys, xid) = (&change.ledger.keys, transaction::full_id());
        let written = difference::seal(keys, nonce()?, own_incarnation(), xid, &sums);
        let written = written.ok_or_else(too_many)?;
        let table = catalog.tables.ledger_difference;
        let insert = || tuple::insert(table, [Param::uuid(id), Param::bytes(&written)]);
        // PostgreSQL toasts a long value under a snapshot, and the commit has dropped it.
        if written.len() < SHORT { insert() } else { transaction::with_snapshot(insert) }
    }
    Ok(())
}

fn too_many() -> Error {
    let message =
        format!("a transaction can't change rows in more than {MOST_RANGES} ranges of a ledger");
    Error::new(Code::Conflict, message).hint("Change the rows in several transactions.")
}

pub fn transaction_is_over() {
    CHANGES.with(|changes| drop(changes.take()));
    IS_WRITTEN.set(false);
    HAS_ENDED_SOME.set(false);
}

/// Notes that the transaction ends a ledger.
pub fn note_end() {
    HAS_ENDED_SOME.set(true);
}

/// A savepoint's sums become part of those around it.
pub fn released(ended: SubTransactionId, parent: SubTransactionId) {
    CHANGES.with(|changes| {
        changes.change(|list| {
            let first = list.partition_point(|(owner, _)| *owner < ended);
            for (_, change) in list.split_off(first) {
                put(list, parent, change);
            }
        });
    });
}

pub fn rolled_back(ended: SubTransactionId) {
    CHANGES.with(|changes| changes.rolled_back(ended));
}
