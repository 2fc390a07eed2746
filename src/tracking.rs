//! The trigger on tracked tables, which records the key or person and the number of changed rows of each
//! statement.
//!
//! It does not read rows. PostgreSQL counts, for its statistics, the rows that the transaction has
//! inserted, updated and deleted in each table. A trigger before the statement reads that number,
//! and one after it reads it again. So the cost does not grow with the number of rows. A statement
//! on a table with partitions or child tables changes rows of several tables. There the trigger
//! has a transition table, and reads its length.

use crate::catalog::Catalog;
use crate::identity::{self, Identity};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::relation::{Change, counts_changed_rows};
use pg::spi::Param;
use pg::trigger::{Returned, TriggerCall, TriggerEvent, trigger_functions};
use pg::user_table::{
    ACCESS_EXCLUSIVE, SHARE_ROW_EXCLUSIVE, TableRight, UserTable, create_trigger, drop_trigger,
    ours,
};
use pg::{clock, lookup, transaction, tuple};
use pgrx::pg_sys::{Datum, Oid};
use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

sql_functions! {
    keysmith_track => track;
    keysmith_untrack => untrack;
}

trigger_functions! {
    keysmith_log_usage => log_usage;
}

const FUNCTION: &CStr = c"log_usage";

/// PostgreSQL counts the changed rows of each table. For a plain table the triggers read that count
/// before and after a statement, which costs nothing per row. Rows of partitions and child tables
/// are counted with those, so here the triggers use transition tables.
fn track(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
    let has_parts = table.has_or_had_children();
    for (operation, rows) in [("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")] {
        attach(&table, &format!("keysmith_before_{operation} BEFORE {operation}"), "");
        let copies = format!("REFERENCING {rows} TABLE AS changed");
        let copies = if has_parts { &*copies } else { "" };
        attach(&table, &format!("keysmith_{operation} AFTER {operation}"), copies);
    }
    attach(&table, "keysmith_truncate AFTER TRUNCATE", "");
    Ok(None)
}

fn attach(table: &UserTable, trigger: &str, copies: &str) {
    let statement = format!(
        "CREATE OR REPLACE TRIGGER {trigger} ON {} {copies}
         FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage()",
        table.name()
    );
    create_trigger(table, &statement, ours(FUNCTION, &[]));
}

fn untrack(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    let function = ours(FUNCTION, &[]);
    for trigger in table.triggers().iter().filter(|trigger| trigger.function == function) {
        drop_trigger(&format!("DROP TRIGGER keysmith ON {}", table.name()), trigger.oid);
    }
    Ok(None)
}

/// A statement that is under way.
struct Statement {
    relation: Oid,
    event: TriggerEvent,
    /// The number of rows that the transaction had changed in the table before.
    before: i64,
    /// The number of rows that nested statements, as of row triggers, have changed since. These
    /// statements have their own records.
    nested: i64,
    transaction: u32,
    subtransaction: u32,
    depth: i32,
    /// For whom the transaction acted when the statement began. The statement itself may sign in or
    /// out.
    acted: Option<Rc<Identity>>,
}

thread_local! {
    static STATEMENTS: RefCell<Vec<Statement>> = const { RefCell::new(Vec::new()) };
}

/// More statements than are ever nested.
const MOST_OPEN: usize = 10_000;

fn log_usage(call: Option<&TriggerCall>) -> Result<Returned> {
    let trigger = call.filter(|call| !call.is_for_row()).ok_or_else(|| {
        Error::new(Code::InvalidArgument, "log_usage can be called by statement triggers alone")
            .hint("keysmith.track makes them.")
    })?;
    if trigger.is_before() {
        begin(trigger)?;
    } else {
        let (rows, acted) = end(trigger);
        if rows != Some(0) {
            let acts = identity::current()?;
            if let Some(acting) = acted.or(acts) {
                must_be_able_to_write();
                note(trigger, rows, &acting)?;
            }
        }
    }
    Ok(Returned::nothing())
}

fn begin(trigger: &TriggerCall) -> Result<()> {
    let (transaction, subtransaction, depth) = now();
    let statement = Statement {
        relation: trigger.relation().oid(),
        event: trigger.event(),
        before: changed(trigger),
        nested: 0,
        transaction,
        subtransaction,
        depth,
        acted: identity::current()?,
    };
    STATEMENTS.with_borrow_mut(|statements| {
        forget_the_aborted(statements);
        // A hand-made trigger before the statement may have no counterpart after it.
        if statements.len() >= MOST_OPEN {
            statements.clear();
        }
        statements.push(statement);
    });
    Ok(())
}

/// The number of rows that the statement has changed, `None` if they were not counted; and for whom
/// the transaction acted when it began.
fn end(trigger: &TriggerCall) -> (Option<i64>, Option<Rc<Identity>>) {
    let (relation, event) = (trigger.relation().oid(), trigger.event());
    let counted = STATEMENTS.with_borrow_mut(|statements| {
        forget_the_aborted(statements);
        let same =
            |statement: &Statement| statement.relation == relation && statement.event == event;
        let ended = statements.remove(statements.iter().rposition(same)?);
        let all = changed(trigger).saturating_sub(ended.before).max(0);
        if let Some(outer) = statements.iter_mut().rfind(|statement| same(statement)) {
            outer.nested = outer.nested.saturating_add(all);
        }
        Some((all.saturating_sub(ended.nested).max(0), ended.acted))
    });
    let (counted, acted) = counted.map_or((None, None), |(rows, acted)| (Some(rows), acted));
    let rows = trigger.copied_rows().or_else(|| {
        counted.filter(|_| event != TriggerEvent::Truncate).filter(|_| counts_changed_rows())
    });
    (rows, acted)
}

/// Drops the statements that failed: the trigger after them is not called. A statement of this
/// depth has failed if its subtransaction is not the current one.
fn forget_the_aborted(statements: &mut Vec<Statement>) {
    let (transaction, subtransaction, depth) = now();
    while statements.last().is_some_and(|last| {
        last.transaction != transaction
            || last.depth > depth
            || last.depth == depth && last.subtransaction != subtransaction
    }) {
        statements.pop();
    }
}

/// The transaction, the subtransaction and its nesting level.
fn now() -> (u32, u32, i32) {
    (transaction::local_id(), transaction::current_subtransaction(), transaction::nest_level())
}

/// The number of rows that this transaction has changed in the table so far.
fn changed(trigger: &TriggerCall) -> i64 {
    let relation = trigger.relation();
    match trigger.event() {
        TriggerEvent::Insert => relation.changed_rows(Change::Insert),
        TriggerEvent::Update => relation.changed_rows(Change::Update),
        TriggerEvent::Delete => relation.changed_rows(Change::Delete),
        TriggerEvent::Truncate => 0,
    }
}

/// A READ ONLY transaction may write to a temporary table, but not to our table.
fn must_be_able_to_write() {
    transaction::must_not_be_read_only(c"keysmith.log_usage");
    transaction::must_not_be_parallel(c"keysmith.log_usage");
}

/// Stands for the key in rows of persons.
const NO_KEY: [u8; 16] = [0; 16];

/// Inserts the row, without a statement: that would cost more, and would have to run as the owner,
/// since no other role has privileges on the table.
fn note(trigger: &TriggerCall, rows: Option<i64>, acting: &Identity) -> Result<()> {
    let relation = trigger.relation();
    let schema = lookup::schema_name(relation.class(|class| class.relnamespace));
    let name = relation.name();
    let operation = match trigger.event() {
        TriggerEvent::Insert => "insert",
        TriggerEvent::Update => "update",
        TriggerEvent::Delete => "delete",
        TriggerEvent::Truncate => "truncate",
    };
    let time = Param::timestamp(Some(clock::now()));
    // In the order of the table's columns.
    let row = [
        Param::uuid(acting.key.as_ref().map_or(&NO_KEY, |key| &key.id)),
        Param::uuid(&acting.tenant_id),
        Param::server_text(Some(&schema)),
        Param::server_text(Some(&name)),
        Param::text(operation),
        Param::bigint(rows),
        time,
        time,
        Param::uuid(&acting.request_id),
        Param::server_text(acting.person()),
    ];
    tuple::insert(Catalog::open()?.tables.touch.table, row);
    // It may have waited for the end of the tenant, which can't have seen the row.
    identity::current().map(|_| ())
}
