//! `protect` and `unprotect`, which set the columns of a table that store digests.

use super::columns::{name, wanted};
use super::forms::Forms;
use super::progress::HashingProgress;
use keysmith_core::rows::stored::Algorithm;
use pg::call::{Call, sql_functions};
use pg::error::{Error, Result};
use pg::notice::{notice, warning};
use pg::text::{self, literal, quoted_name};
use pg::user_table::{
    ACCESS_EXCLUSIVE, Latest, SHARE_ROW_EXCLUSIVE, TableRight, UserTable, create_trigger,
    drop_trigger, ours,
};
use pgrx::pg_sys::Datum;
use std::ffi::CStr;

sql_functions! {
    keysmith_protect => protect_array;
    keysmith_protect_columns => protect_columns;
    keysmith_unprotect => unprotect_array;
    keysmith_unprotect_columns => unprotect_columns;
}

/// The name of the triggers that `protect` makes, and the function that they call.
pub const TRIGGER: &CStr = c"~keysmith_1_hash";
pub const FUNCTION: &CStr = c"hash_columns";

fn protect_array(call: &Call) -> Result<Option<Datum>> {
    let columns = call.strings(1, "columns")?;
    let algorithm = call.text(2, "algorithm")?.and_then(|name| Algorithm::named(&name));
    let algorithm =
        algorithm.ok_or_else(|| Error::argument("algorithm", "must be sha256 or hmac"))?;
    protect(call, &columns, algorithm)
}

fn protect_columns(call: &Call) -> Result<Option<Datum>> {
    protect(call, &one_by_one(call)?, Algorithm::Sha256)
}

fn unprotect_array(call: &Call) -> Result<Option<Datum>> {
    unprotect(call, &call.strings(1, "columns")?)
}

fn unprotect_columns(call: &Call) -> Result<Option<Datum>> {
    unprotect(call, &one_by_one(call)?)
}

/// Columns that are separate arguments: the first, and an array of the others.
pub fn one_by_one(call: &Call) -> Result<Vec<String>> {
    let mut columns = vec![call.required_text(1, "column_name")?];
    columns.extend(call.strings(2, "more_columns")?);
    Ok(columns)
}

fn protect(call: &Call, columns: &[String], algorithm: Algorithm) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
    table.must_not_be_catalog()?;
    if columns.is_empty() {
        return Err(Error::argument("columns", "must name at least one column"));
    }
    let trigger = table.own_trigger(TRIGGER, FUNCTION, "protected")?;
    let before = trigger.map(|trigger| trigger.arguments).unwrap_or_default();
    let parts = table.parts(SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
    let wanted = wanted(&parts, &table, &before, columns, algorithm)?;
    let is_same = wanted.len() == before.len() && wanted.iter().all(|one| before.contains(one));
    let arguments = if is_same { &before } else { &wanted };
    // Partitions get the triggers of their table. Child tables do not, and there may be new
    // ones.
    let bare: Vec<&UserTable> = parts
        .iter()
        .filter(|part| part.needs_trigger(&table))
        .filter(|part| {
            part.trigger(TRIGGER, FUNCTION).is_none_or(|own| own.arguments != *arguments)
        })
        .collect();
    if bare.is_empty() {
        return Ok(None);
    }
    let had_none: Vec<bool> =
        parts.iter().map(|part| part.trigger(TRIGGER, FUNCTION).is_none()).collect();
    attach(&bare, arguments);
    warn_of_later_triggers(&parts);
    note_what_is_there(&table, &parts, &had_none, &before, arguments)
}

/// Attaches the trigger with these arguments to tables.
fn attach(tables: &[&UserTable], arguments: &[String]) {
    let arguments: Vec<String> = arguments.iter().map(|argument| literal(argument)).collect();
    for table in tables {
        let statement = format!(
            "CREATE OR REPLACE TRIGGER \"~keysmith_1_hash\" BEFORE INSERT OR UPDATE ON {}
             FOR EACH ROW EXECUTE FUNCTION keysmith.hash_columns({})",
            table.name(),
            arguments.join(", ")
        );
        create_trigger(table, &statement, ours(FUNCTION, &[]));
    }
}

/// Triggers run in the order of their names.
fn warn_of_later_triggers(parts: &[UserTable]) {
    let seal = ours(super::seal::FUNCTION, &[]);
    let own = ours(FUNCTION, &[]);
    for part in parts {
        for trigger in part.triggers() {
            if trigger.is_before_writing_rows()
                && *trigger.name > *TRIGGER
                && trigger.function != own
                && trigger.function != seal
            {
                let name = quoted_name(&text::lossy(trigger.name.to_bytes()));
                let table = part.name();
                warning(
                    format!(
                        "trigger {name} of {table} runs after the digests are made: what it sets is stored as it is"
                    ),
                    Some("Triggers run in the order of their names.".into()),
                );
            }
        }
    }
}

/// No other session can write before this transaction ends. If no value looks like a digest now,
/// every value that later does is one. So protect_existing can tell which values are done.
fn note_what_is_there(
    table: &UserTable,
    parts: &[UserTable],
    had_none: &[bool],
    before: &[String],
    arguments: &[String],
) -> Result<Option<Datum>> {
    let Some(trigger) = table.trigger(TRIGGER, FUNCTION) else { return Ok(None) };
    let mut progress = HashingProgress::of(trigger.oid);
    let snapshot = Latest::now();
    for column in arguments.iter().map(|argument| name(argument)) {
        let is_new = !before.iter().any(|argument| name(argument) == column);
        let unknown: Vec<&UserTable> = parts
            .iter()
            .zip(had_none)
            .filter(|(_, had_none)| is_new || **had_none)
            .map(|(part, _)| part)
            .collect();
        let forms = Forms::of(&unknown, column, &snapshot)?;
        let shown = format!("{}.{}", table.name(), quoted_name(column));
        if forms.has_digests {
            progress.clean.retain(|clean| clean != column);
            warning(
                format!("values of {shown} look like digests already"),
                Some("They are left as they are. protect_existing asks what they are.".into()),
            );
        } else if is_new {
            progress.clean.retain(|clean| clean != column);
            progress.clean.push(column.to_owned());
        }
        if forms.has_values {
            let name = table.name();
            notice(
                format!(
                    "rows of {name} that are there keep their values of {}",
                    quoted_name(column)
                ),
                Some(format!(
                    "CALL keysmith.protect_existing({}) has them digested.",
                    literal(&name)
                )),
            );
        }
    }
    progress.write(&trigger);
    Ok(None)
}

fn unprotect(call: &Call, columns: &[String]) -> Result<Option<Datum>> {
    // Removing a trigger needs a stronger lock than changing it. Taking it later could end in
    // a deadlock.
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    let trigger =
        table.own_trigger(TRIGGER, FUNCTION, "protected")?.ok_or_else(|| not_protected(&table))?;
    let is_named = |argument: &&String| columns.iter().any(|column| column == name(argument));
    for column in columns {
        if !trigger.arguments.iter().any(|argument| name(argument) == column) {
            let message =
                format!("column {} of {} is not protected", quoted_name(column), table.name());
            return Err(Error::not_found(message));
        }
    }
    let left: Vec<String> = trigger
        .arguments
        .iter()
        .filter(|argument| !columns.is_empty() && !is_named(argument))
        .cloned()
        .collect();
    let parts = table.parts(ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    let protected: Vec<&UserTable> = parts
        .iter()
        .filter(|part| part.needs_trigger(&table) && part.trigger(TRIGGER, FUNCTION).is_some())
        .collect();
    if left.is_empty() {
        detach(&protected);
    } else {
        attach(&protected, &left);
    }
    Ok(None)
}

fn detach(tables: &[&UserTable]) {
    for table in tables {
        if let Some(trigger) = table.trigger(TRIGGER, FUNCTION) {
            let statement = format!("DROP TRIGGER \"~keysmith_1_hash\" ON {}", table.name());
            drop_trigger(&statement, trigger.oid);
        }
    }
}

pub fn not_protected(table: &UserTable) -> Error {
    Error::not_found(format!("table {} is not protected", table.name()))
}
