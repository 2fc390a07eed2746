//! Digests some pages of a protected table by an update that sets each column to itself. The
//! trigger knows this update and digests the values.

use super::forms::Column;
use super::value::quoted;
use pg::error::{Code, Error, Result};
use pg::major;
use pg::text;
use pg::user_table::{Latest, UserTable, as_owner, each_row_of};
use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid, Query, Relation};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};
use std::ops::{ControlFlow, Range};
use std::ptr::null_mut;

thread_local! {
    /// The table that is being digested.
    static WALKED: Cell<Oid> = const { Cell::new(Oid::INVALID) };
}

/// Whether the table's rows are being updated to have what they hold digested.
pub fn is_walking(relation: Relation) -> bool {
    // SAFETY: the relation is open.
    WALKED.get() == unsafe { (*relation).rd_id }
}

/// Ends the walk, also where the statement fails.
struct Walk;

impl Drop for Walk {
    fn drop(&mut self) {
        WALKED.set(Oid::INVALID);
    }
}

/// Pages that are gone through at a time, so that their rows' places fit into memory.
const MOST_AT_ONCE: usize = 1000;

/// Has the trigger digest the values in some pages of a locked table, and returns the number
/// of rows. The update runs as the table's owner, with the table's triggers, checks and
/// indexes. The table's rules and policies are not applied: they could keep rows back.
pub fn digest(part: &UserTable, columns: &[Column], pages: Range<u32>) -> Result<i64> {
    fire_at_once();
    let mut rows = 0;
    for first in pages.clone().step_by(MOST_AT_ONCE) {
        let beyond = first.saturating_add(MOST_AT_ONCE as u32).min(pages.end);
        let snapshot = Latest::now();
        let places = places(part, columns, first..beyond, &snapshot)?;
        if !places.is_empty() {
            rows += update(part, columns, places, &snapshot)?;
        }
    }
    Ok(rows)
}

/// The rows with a value that is no digest.
fn places(
    part: &UserTable,
    columns: &[Column],
    pages: Range<u32>,
    snapshot: &Latest,
) -> Result<Vec<ItemPointerData>> {
    let mut places = Vec::new();
    each_row_of(part, pages, snapshot, |row| {
        let is_plain = columns.iter().any(|column| {
            // SAFETY: the column is of that kind, under the table's lock.
            row.value(column.number).is_some_and(|value| unsafe { !column.kind.is_stored(value) })
        });
        if is_plain {
            places.push(row.place());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(places)
}

fn update(
    part: &UserTable,
    columns: &[Column],
    mut places: Vec<ItemPointerData>,
    snapshot: &Latest,
) -> Result<i64> {
    let (query, statement) = analyzed(part, columns)?;
    let mut elements: Vec<Datum> =
        places.iter_mut().map(|place| Datum::from(std::ptr::from_mut(place))).collect();
    // SAFETY: the elements point to places, as many as is said; they are copied.
    let array = unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as c_int,
            pg_sys::TIDOID,
            size_of::<ItemPointerData>() as c_int,
            false,
            pg_sys::TYPALIGN_SHORT as c_char,
        )
    };
    WALKED.set(part.oid());
    let _walk = Walk;
    // The triggers are to find what they find otherwise: the search path stays.
    Ok(as_owner(part, false, || run(query, &statement, array.into(), snapshot)))
}

/// The update of rows at the places that are its parameter.
fn analyzed(part: &UserTable, columns: &[Column]) -> Result<(*mut Query, CString)> {
    let assignments: Vec<String> = columns
        .iter()
        .map(|column| quoted(&column.name))
        .map(|column| format!("{column} = {column}"))
        .collect();
    let statement = text::to_server(&format!(
        "UPDATE ONLY {} SET {} WHERE ctid OPERATOR(pg_catalog.=) ANY ($1)",
        part.name(),
        assignments.join(", "),
    ));
    // SAFETY: PostgreSQL gives a list of one statement, or raises an error. To analyze it
    // looks up names, and runs nothing.
    let (query, found) = unsafe {
        let list = pg_sys::pg_parse_query(statement.as_ptr());
        let query = pg_sys::parse_analyze_fixedparams(
            (*(*list).elements).ptr_value.cast(),
            statement.as_ptr(),
            &pg_sys::TIDARRAYOID,
            1,
            null_mut(),
        );
        let entry = (*(*(*query).rtable).elements).ptr_value.cast::<pg_sys::RangeTblEntry>();
        (query, (*entry).relid)
    };
    // A schema can be renamed while its tables are locked.
    if found != part.oid() {
        let message = format!("{} is another table now", part.name());
        return Err(
            Error::new(Code::Conflict, message).hint("Call keysmith.protect_existing again.")
        );
    }
    Ok((query, statement))
}

/// Constraint triggers that are deferred would run at the end of the transaction, as the
/// caller.
fn fire_at_once() {
    let mut all = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: null_mut(),
        deferred: false,
    };
    // SAFETY: the statement is complete. Nothing waits yet: the transaction is new.
    unsafe { pg_sys::AfterTriggerSetState(&mut all) };
}

/// Plans and runs an update as it is, by the OIDs that it has.
fn run(query: *mut Query, statement: &CString, places: Datum, snapshot: &Latest) -> i64 {
    // SAFETY: as PostgreSQL does it. What an error leaves behind, the abort tidies up.
    unsafe {
        let parameters = pg_sys::makeParamList(1);
        let parameter = &mut *(*parameters).params.as_mut_ptr();
        parameter.value = places;
        parameter.isnull = false;
        parameter.pflags = pg_sys::PARAM_FLAG_CONST as u16;
        parameter.ptype = pg_sys::TIDARRAYOID;
        pg_sys::PushActiveSnapshot(snapshot.registered());
        let plan = pg_sys::pg_plan_query(query, statement.as_ptr(), 0, parameters);
        let execution = pg_sys::CreateQueryDesc(
            plan,
            statement.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            null_mut(),
            pg_sys::None_Receiver,
            parameters,
            null_mut(),
            0,
        );
        pg_sys::ExecutorStart(execution, 0);
        major::run_executor(execution);
        pg_sys::ExecutorFinish(execution);
        let rows = (*(*execution).estate).es_processed;
        pg_sys::ExecutorEnd(execution);
        pg_sys::FreeQueryDesc(execution);
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
        i64::try_from(rows).unwrap_or(i64::MAX)
    }
}
