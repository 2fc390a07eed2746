//! The trigger on tracked tables: which key changed how many rows, told by statement.
//!
//! Rows are not looked at. PostgreSQL counts, for its statistics, what the transaction
//! has inserted, updated and deleted in each table: a trigger before the statement reads
//! that number, one after it reads it again. So the cost of a statement does not grow
//! with its rows. Where the rows of a statement are those of several tables, partitions
//! or children, a transition table is asked for, and its length read.

use crate::catalog::{Catalog, columns};
use crate::identity::{self, Identity};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::major;
use pg::user_table::{
    ACCESS_EXCLUSIVE, Needs, SHARE_ROW_EXCLUSIVE, UserTable, create_trigger, drop_trigger, ours,
};
use pgrx::pg_sys::{self, Datum, Oid, TriggerData};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};

sql_functions! {
    keysmith_log_usage => log_usage;
    keysmith_track => track;
    keysmith_untrack => untrack;
}

const FUNCTION: &CStr = c"log_usage";

/// An ordinary table's rows are counted by PostgreSQL as they are changed: what is read
/// before and after a statement costs nothing a row. Rows of partitions and children are
/// counted there, not here, so for those a copy of each is asked for.
fn track(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), SHARE_ROW_EXCLUSIVE, Needs::Ownership)?;
    let has_parts = table.has_or_had_children();
    for (operation, rows) in [("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")] {
        if has_parts {
            let copies = format!("REFERENCING {rows} TABLE AS changed");
            attach(&table, &format!("keysmith_{operation} AFTER {operation}"), &copies);
        } else {
            attach(&table, &format!("keysmith_before_{operation} BEFORE {operation}"), "");
            attach(&table, &format!("keysmith_{operation} AFTER {operation}"), "");
        }
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
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, Needs::Ownership)?;
    let function = ours(FUNCTION, &[]);
    let noting = table.triggers().iter().filter(|trigger| trigger.tgfoid == function);
    let oids: Vec<Oid> = noting.map(|trigger| trigger.tgoid).collect();
    for oid in oids {
        drop_trigger(&format!("DROP TRIGGER keysmith ON {}", table.name()), oid);
    }
    Ok(None)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Operation {
    fn of(trigger: &TriggerData) -> Operation {
        match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Operation::Delete,
            _ => Operation::Truncate,
        }
    }

    fn name(self) -> &'static CStr {
        match self {
            Operation::Insert => c"insert",
            Operation::Update => c"update",
            Operation::Delete => c"delete",
            Operation::Truncate => c"truncate",
        }
    }
}

/// A statement that is under way.
struct Statement {
    relation: Oid,
    operation: Operation,
    /// What the transaction had changed in the table before it.
    before: i64,
    /// How much of the change since then is that of statements within this one, such as
    /// those of row triggers: they are told of by themselves.
    nested: i64,
    transaction: u32,
    subtransaction: u32,
    depth: c_int,
}

thread_local! {
    static STATEMENTS: RefCell<Vec<Statement>> = const { RefCell::new(Vec::new()) };
}

/// More statements than are ever within one another.
const MOST_OPEN: usize = 10_000;

fn log_usage(call: &Call) -> Result<Option<Datum>> {
    let trigger = trigger_data(call)?;
    let operation = Operation::of(trigger);
    if trigger.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE {
        begin(trigger, operation);
    } else {
        let rows = end(trigger, operation);
        if rows != Some(0)
            && let Some(acting) = identity::current()?
        {
            must_be_able_to_write();
            note(trigger, operation, rows, &acting)?;
        }
    }
    // A statement trigger returns no row, which is not the same as an SQL null.
    Ok(Some(Datum::null()))
}

fn trigger_data(call: &Call) -> Result<&TriggerData> {
    // SAFETY: the frame is valid, and its context is null or a node, whose tag tells
    // whether it is a trigger's; that lives as long as the call.
    let trigger = unsafe {
        let node = (*call.frame()).context;
        let is_trigger = !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_TriggerData;
        is_trigger.then(|| &*node.cast::<TriggerData>())
    };
    trigger.filter(|trigger| trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0).ok_or_else(|| {
        Error::new(Code::InvalidArgument, "log_usage can be called by statement triggers alone")
            .hint("keysmith.track makes them.")
    })
}

fn begin(trigger: &TriggerData, operation: Operation) {
    let (transaction, subtransaction, depth) = now();
    let statement = Statement {
        relation: relation_id(trigger),
        operation,
        before: changed(trigger, operation),
        nested: 0,
        transaction,
        subtransaction,
        depth,
    };
    STATEMENTS.with_borrow_mut(|statements| {
        forget_the_aborted(statements);
        // A trigger that was made by hand may have no counterpart that ends the statement.
        if statements.len() >= MOST_OPEN {
            statements.clear();
        }
        statements.push(statement);
    });
}

/// How many rows the statement has changed; `None` if no one counted.
fn end(trigger: &TriggerData, operation: Operation) -> Option<i64> {
    let relation = relation_id(trigger);
    let counted = STATEMENTS.with_borrow_mut(|statements| {
        forget_the_aborted(statements);
        let same = |statement: &Statement| {
            statement.relation == relation && statement.operation == operation
        };
        let ended = statements.remove(statements.iter().rposition(same)?);
        let all = changed(trigger, operation).saturating_sub(ended.before).max(0);
        if let Some(outer) = statements.iter_mut().rfind(|statement| same(statement)) {
            outer.nested = outer.nested.saturating_add(all);
        }
        Some(all.saturating_sub(ended.nested).max(0))
    });
    let copies = [trigger.tg_newtable, trigger.tg_oldtable].into_iter().find(|t| !t.is_null());
    if let Some(copies) = copies {
        // SAFETY: the statement's transition table, which outlives its triggers.
        return Some(unsafe { pg_sys::tuplestore_tuple_count(copies) });
    }
    // SAFETY: a setting that is a boolean.
    counted
        .filter(|_| operation != Operation::Truncate)
        .filter(|_| unsafe { pg_sys::pgstat_track_counts })
}

/// Statements that failed never end. One of this depth is over if its subtransaction is
/// another than the one that is open now.
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

/// The transaction, the subtransaction, and how deep it is.
fn now() -> (u32, u32, c_int) {
    // SAFETY: we are inside a transaction, whose process has an entry.
    unsafe {
        (
            major::local_transaction_id(),
            pg_sys::GetCurrentSubTransactionId(),
            pg_sys::GetCurrentTransactionNestLevel(),
        )
    }
}

fn relation_id(trigger: &TriggerData) -> Oid {
    // SAFETY: the trigger manager has the relation open.
    unsafe { (*trigger.tg_relation).rd_id }
}

/// What this transaction has changed in the table up to now. PostgreSQL keeps a count
/// for each open subtransaction.
fn changed(trigger: &TriggerData, operation: Operation) -> i64 {
    let mut sum: i64 = 0;
    // SAFETY: the relation is open; where it has been changed it has counts, which are
    // the backend's own, one for each level, linked upwards.
    unsafe {
        let counts = (*trigger.tg_relation).pgstat_info;
        let mut level = if counts.is_null() { std::ptr::null_mut() } else { (*counts).trans };
        while !level.is_null() {
            sum = sum.saturating_add(match operation {
                Operation::Insert => (*level).tuples_inserted,
                Operation::Update => (*level).tuples_updated,
                Operation::Delete => (*level).tuples_deleted,
                Operation::Truncate => 0,
            });
            level = (*level).upper;
        }
    }
    sum
}

/// A READ ONLY transaction may write to a temporary table, but not to our table.
fn must_be_able_to_write() {
    // SAFETY: PostgreSQL raises an error where that is so; the name is a C string.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(c"keysmith.log_usage".as_ptr());
        pg_sys::PreventCommandIfParallelMode(c"keysmith.log_usage".as_ptr());
    }
}

const COLUMNS: usize = columns::touch::COLUMNS.len();

/// Writes the row. No one has any right to the table, so it is not written by a
/// statement, which would have to run as its owner and costs more.
fn note(
    trigger: &TriggerData,
    operation: Operation,
    rows: Option<i64>,
    acting: &Identity,
) -> Result<()> {
    let catalog = Catalog::open()?;
    let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    let mut values = [Datum::null(); COLUMNS];
    let mut nulls = [true; COLUMNS];
    let mut set = |column: i16, value: Datum| {
        let index = usize::try_from(column - 1).unwrap_or_default();
        values[index] = value;
        nulls[index] = false;
    };
    // SAFETY: the relations are open; names are C strings, which are copied; the values
    // are of the columns' types, as `Catalog` has compared their names; ids live longer
    // than the row, which is copied to the table.
    unsafe {
        use columns::touch;
        let relation = trigger.tg_relation;
        let text = |name: *const c_char| {
            let name = if name.is_null() { c"".as_ptr() } else { name };
            Datum::from(pg_sys::cstring_to_text(name))
        };
        let time = Datum::from(pg_sys::GetCurrentTimestamp());
        set(touch::key_id, Datum::from(&raw const acting.key_id));
        set(touch::tenant_id, Datum::from(&raw const acting.tenant_id));
        set(touch::schema, text(pg_sys::get_namespace_name((*(*relation).rd_rel).relnamespace)));
        set(touch::relation, text((*(*relation).rd_rel).relname.data.as_ptr()));
        set(touch::operation, text(operation.name().as_ptr()));
        if let Some(rows) = rows {
            set(touch::rows, Datum::from(rows));
        }
        set(touch::first_at, time);
        set(touch::last_at, time);
        set(touch::request_id, Datum::from(&raw const acting.request_id));
        let table = pg_sys::table_open(catalog.tables.touch.table, lock);
        let row = pg_sys::heap_form_tuple((*table).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        // Despite its name, for any table without constraints beyond its columns'.
        pg_sys::CatalogTupleInsert(table, row);
        pg_sys::heap_freetuple(row);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    Ok(())
}
