//! An UPDATE that sets columns to their present values, so that triggers process existing rows.

use super::{Latest, UserTable, as_owner};
use crate::{datum, major, text};
use pgrx::pg_sys::{self, Datum, ItemPointerData, Query};
use std::ffi::CString;
use std::ptr::null_mut;

/// Updates the rows with these TIDs, and returns their number; `None` if the table's name now
/// belongs to another table. The update runs as the table's owner, with the table's triggers,
/// checks and indexes. The table's rules and policies are not applied, since they could leave out
/// rows.
pub fn update_in_place(
    table: &UserTable,
    columns: &[&str],
    places: &[ItemPointerData],
    snapshot: &Latest,
) -> Option<i64> {
    if columns.is_empty() || places.is_empty() {
        return Some(0);
    }
    let (query, statement) = analyzed(table, columns);
    // SAFETY: the table is the first entry of the range table of an analyzed UPDATE.
    let found = unsafe {
        let entry = (*(*(*query).rtable).elements).ptr_value.cast::<pg_sys::RangeTblEntry>();
        (*entry).relid
    };
    // A schema can be renamed while its tables are locked.
    if found != table.oid() {
        return None;
    }
    let places = datum::tid_array(places);
    // The search path stays as it is, so that triggers run as they would in any other statement.
    Some(as_owner(table, false, || run(query, &statement, places, snapshot)))
}

/// Parses and analyzes the UPDATE. Its parameter is the array of TIDs.
fn analyzed(table: &UserTable, columns: &[&str]) -> (*mut Query, CString) {
    let assignments: Vec<String> = columns
        .iter()
        .map(|column| text::quoted_name(column))
        .map(|column| format!("{column} = {column}"))
        .collect();
    let statement = text::to_server(&format!(
        "UPDATE ONLY {} SET {} WHERE ctid OPERATOR(pg_catalog.=) ANY ($1)",
        table.name(),
        assignments.join(", "),
    ));
    // SAFETY: pg_parse_query returns a list of one statement, or raises an error. The analysis
    // looks up names, and runs nothing.
    let query = unsafe {
        let list = pg_sys::pg_parse_query(statement.as_ptr());
        pg_sys::parse_analyze_fixedparams(
            (*(*list).elements).ptr_value.cast(),
            statement.as_ptr(),
            &pg_sys::TIDARRAYOID,
            1,
            null_mut(),
        )
    };
    (query, statement)
}

/// Plans and runs the analyzed UPDATE, which has OIDs in place of names.
fn run(query: *mut Query, statement: &CString, places: Datum, snapshot: &Latest) -> i64 {
    // SAFETY: the same calls as in PostgreSQL. After an error the abort cleans up.
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

/// `SET CONSTRAINTS ALL IMMEDIATE`. Constraint triggers that are deferred would run at the end of
/// the transaction, as the caller.
pub fn set_constraints_immediate() {
    let mut all = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: null_mut(),
        deferred: false,
    };
    // SAFETY: the statement is complete.
    unsafe { pg_sys::AfterTriggerSetState(&mut all) };
}
