//! The triggers of a ledger: they add what a statement changed to the transaction's sums.

use super::entry::Ledger;
use super::form::RowForm;
use super::pending;
use super::table::add_rows;
use super::triggers::{has_truncate, name_for};
use crate::catalog::invalidation::changes_of_forms;
use keysmith_core::ledger::sums::Sums;
use pg::error::{Code, Error, Result};
use pg::scan::Snapshot;
use pg::server::applies_changes;
use pg::table_trigger::is_replica;
use pg::trigger::{Copies, Returned, TriggerCall, TriggerEvent, trigger_functions};
use pg::tuple::Tuple;
use pg::user_table::{ACCESS_EXCLUSIVE, UserTable};
use pg::{input, text};
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::rc::Rc;

trigger_functions! {
    keysmith_ledger_changes => ledger_changes;
}

/// What the triggers of a table do.
struct Work {
    ledger: Rc<Ledger>,
    arguments: Vec<String>,
    form: RowForm,
}

/// What the session remembers of a table.
struct Remembered {
    table: Oid,
    /// The value of `changes_of_forms` before it was made.
    changes: u64,
    work: Rc<Work>,
}

/// The most tables that a session remembers.
const MOST: usize = 64;

thread_local! {
    /// It is never dropped: when the process ends, PostgreSQL's memory may be gone.
    static REMEMBERED: ManuallyDrop<RefCell<Vec<Remembered>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn ledger_changes(call: Option<&TriggerCall>) -> Result<Returned> {
    let trigger = call.ok_or_else(not_made_by_ledger)?;
    // So a second trigger, or one that was renamed, records nothing twice.
    if trigger.name() != name_for(trigger.event(), trigger.is_for_row()) {
        return Ok(Returned::nothing());
    }
    // A session that sets session_replication_role goes past the triggers, as others that disable
    // them do. Changes that come by replication are recorded: a subscriber has its own ledger.
    if is_replica() && !applies_changes() {
        return Ok(Returned::nothing());
    }
    let Some(work) = work(trigger)? else { return Ok(Returned::nothing()) };
    let Work { ledger, form, .. } = &*work;
    let mut sums = Sums::default();
    match (trigger.is_for_row(), trigger.is_before(), trigger.event()) {
        (false, true, TriggerEvent::Truncate) => sums.subtract(&truncated(trigger, &work)?),
        (false, false, TriggerEvent::Insert | TriggerEvent::Update | TriggerEvent::Delete) => {
            form.with_settings(|| {
                trigger.each_copied_row(Copies::Old, form.last, |row| {
                    let (range, hash) = form.hash(|column| row.value(column));
                    sums.remove(range, hash);
                    pending::must_fit(sums.ranges())
                })?;
                trigger.each_copied_row(Copies::New, form.last, |row| {
                    let (range, hash) = form.hash(|column| row.value(column));
                    sums.insert(range, hash);
                    pending::must_fit(sums.ranges())
                })
            })?;
        }
        // In all other sessions, the triggers of the statement record the row.
        (true, false, _) if !applies_changes() => {}
        (true, false, _) => form.with_settings(|| {
            let hash = |row: Tuple| form.hash(|column| row.value(column));
            if let Some((range, hash)) = trigger.old().map(hash) {
                sums.remove(range, hash);
            }
            if let Some((range, hash)) = trigger.new_row().map(hash) {
                sums.insert(range, hash);
            }
        }),
        _ => return Err(not_made_by_ledger()),
    }
    pending::add(ledger, sums)?;
    Ok(Returned::nothing())
}

/// `None` on a subscriber that has not called `ledger`, and whose triggers came with a dump.
fn work(trigger: &TriggerCall) -> Result<Option<Rc<Work>>> {
    let table = trigger.relation().oid();
    let changes = changes_of_forms();
    let is_its = |work: &Work| {
        let given = trigger.arguments();
        let same = |(one, other): (&String, &CStr)| one.as_bytes() == other.to_bytes();
        work.arguments.len() == given.len() && work.arguments.iter().zip(given).all(same)
    };
    let known = REMEMBERED.with(|remembered| {
        let remembered = remembered.borrow();
        let known = remembered.iter().find(|known| known.table == table);
        known.filter(|known| known.changes == changes).map(|known| known.work.clone())
    });
    if let Some(known) = known.filter(|known| is_its(known)) {
        return Ok(Some(known));
    }
    let Some(made) = made(trigger)?.map(Rc::new) else { return Ok(None) };
    let remembered = Remembered { table, changes, work: made.clone() };
    let before = REMEMBERED.with(|list| {
        let mut list = list.borrow_mut();
        let is_old = |known: &Remembered| known.table == table || known.changes != changes;
        let mut old: Vec<Remembered> = list.extract_if(.., |known| is_old(known)).collect();
        if list.len() == MOST {
            old.push(list.remove(0));
        }
        list.push(remembered);
        old
    });
    drop(before);
    Ok(Some(made))
}

fn made(trigger: &TriggerCall) -> Result<Option<Work>> {
    let arguments: Vec<String> =
        trigger.arguments().iter().map(|argument| text::lossy(argument.to_bytes())).collect();
    let (id, names) = arguments.split_first().ok_or_else(not_made_by_ledger)?;
    let id = input::uuid(id).ok_or_else(not_made_by_ledger)?;
    let relation = trigger.relation();
    let ledger = Ledger::named(&id, relation.family().0)?;
    // The owner of any table can make triggers with the arguments of another's.
    let is_its = |ledger: &Rc<Ledger>| {
        let table = ledger.entry.relation;
        relation.oid() == table || relation.inherits_from(table)
    };
    if ledger.is_none() && applies_changes() {
        return Ok(None);
    }
    let ledger = ledger.filter(is_its).ok_or_else(|| {
        let name = text::lossy(&relation.name());
        let message = format!("table {name} has the triggers of a ledger that is not its own");
        Error::new(Code::Conflict, message)
            .hint("It was restored without its ledger, or detached: call keysmith.unledger.")
    })?;
    let form = RowForm::of(&ledger, relation, names)?;
    Ok(Some(Work { ledger, arguments, form }))
}

/// The rows that TRUNCATE is about to remove. It fires the triggers of each table that it empties;
/// new partitions lack them.
fn truncated(trigger: &TriggerCall, work: &Work) -> Result<Sums> {
    let Work { ledger, arguments, .. } = work;
    let names = arguments.get(1..).unwrap_or_default();
    let table = UserTable::being_truncated(trigger.relation());
    // TRUNCATE has locked its partitions. It may leave out tables that inherit in another way.
    let parts = match table.is_partitioned() {
        true => table.opened(&table.part_ids(ACCESS_EXCLUSIVE)),
        false => Vec::new(),
    };
    let bare = parts.iter().filter(|part| !has_truncate(part));
    let (snapshot, mut sums) = (Snapshot::now(), Sums::default());
    for part in bare.chain([&table]) {
        add_rows(&mut sums, ledger, part, names, &snapshot, |_| {})?;
    }
    Ok(sums)
}

fn not_made_by_ledger() -> Error {
    Error::new(
        Code::InvalidArgument,
        "ledger_changes can be called only by the triggers of a ledger",
    )
    .hint("keysmith.ledger makes them.")
}
