//! Rows that were there before their table was protected: a batch of them digested.

use super::trigger;
use super::value;
use crate::call::{Call, must_not_be_null, sql_functions};
use crate::error::{Code, Error, Result};
use crate::manage::sql::{self, Param};
use crate::text;
use crate::varlena;
use keysmith_core::rows::stored;
use pgrx::pg_sys::{self, Datum, Oid, Relation};
use std::cell::Cell;
use std::ffi::CStr;

sql_functions! {
    keysmith_hash_pages => hash_pages;
    keysmith_trigger_arguments => trigger_arguments;
}

/// What `protect` calls its triggers.
const TRIGGER: &CStr = c"~keysmith_1_hash";

thread_local! {
    /// The table of which a batch is being digested.
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

/// Has the trigger digest what is not a digest in some pages of a table, and tells in how
/// many rows. `protecting` and `begin_hashing` see to it that what looks like a digest is
/// one.
fn hash_pages(call: &Call) -> Result<Option<Datum>> {
    let relation = call.datum(0).ok_or_else(|| must_not_be_null("relation"))?;
    let first = call.bigint(1).ok_or_else(|| must_not_be_null("first_page"))?;
    let beyond = call.bigint(2).ok_or_else(|| must_not_be_null("beyond"))?;
    let oid = Oid::from(relation.value() as u32);
    // The names are quoted for a statement.
    let columns: Vec<String> = arguments_of(oid, TRIGGER)
        .ok_or_else(|| Error::not_found("relation is not protected"))?
        .iter()
        .map(|argument| quoted(stored::column(argument).0))
        .collect();
    let condition: Vec<String> =
        columns.iter().map(|column| format!("NOT keysmith.is_digest({column})")).collect();
    let assignments: Vec<String> =
        columns.iter().map(|column| format!("{column} = {column}")).collect();
    let page = |number: i64| u32::try_from(number).unwrap_or(u32::MAX - 1);
    let rows = sql::session(|| {
        let found = sql::query(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
                    pg_catalog.row_security_active(c.oid)
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE c.oid OPERATOR(pg_catalog.=) $1",
            &[Param::given(pg_sys::OIDOID, Some(relation))],
        )?;
        let table = found.first().and_then(|row| row.text(1));
        let table = table.ok_or_else(|| Error::not_found("relation is not there"))?;
        if found.first().is_some_and(|row| row.boolean(2)) {
            return Err(Error::new(
                Code::NotAllowed,
                format!("row-level security may hide rows of {table} from this role"),
            )
            .hint("A superuser, or a role with BYPASSRLS, sees all rows."));
        }
        WALKED.set(oid);
        let _walk = Walk;
        sql::execute(
            &format!(
                "UPDATE ONLY {table} SET {}
                 WHERE ctid OPERATOR(pg_catalog.>=) '({},0)'::pg_catalog.tid
                   AND ctid OPERATOR(pg_catalog.<) '({},0)'::pg_catalog.tid
                   AND ({})",
                assignments.join(", "),
                page(first),
                page(beyond),
                condition.join(" OR "),
            ),
            &[],
        )
    })?;
    Ok(Some(Datum::from(i64::try_from(rows).unwrap_or(i64::MAX))))
}

fn quoted(name: &str) -> String {
    let server = text::to_server(name);
    // SAFETY: a C string; the answer is it or a copy in the current memory context.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_identifier(server.as_ptr())) };
    value::shown(quoted.to_bytes())
}

/// The arguments of a table's trigger of that name; null if it has none.
fn trigger_arguments(call: &Call) -> Result<Option<Datum>> {
    let relation = call.datum(0).ok_or_else(|| must_not_be_null("relation"))?;
    let name = text::to_server(&call.required_text(1, "trigger")?);
    let arguments = arguments_of(Oid::from(relation.value() as u32), &name);
    Ok(arguments.map(|arguments| {
        varlena::text_array(arguments.iter().map(|argument| text::datum(argument)).collect())
    }))
}

fn arguments_of(relation: Oid, name: &CStr) -> Option<Vec<String>> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: the relation is open while its triggers are read; names are C strings.
    unsafe {
        let relation = pg_sys::try_relation_open(relation, lock);
        if relation.is_null() {
            return None;
        }
        let description = (*relation).trigdesc;
        let triggers = if description.is_null() {
            &[]
        } else {
            let count = usize::try_from((*description).numtriggers).unwrap_or_default();
            std::slice::from_raw_parts((*description).triggers, count)
        };
        let found =
            triggers.iter().find(|trigger| CStr::from_ptr(trigger.tgname) == name).map(|trigger| {
                let arguments = trigger::arguments(trigger);
                arguments.iter().map(|argument| value::shown(argument.to_bytes())).collect()
            });
        pg_sys::relation_close(relation, lock);
        found
    }
}
