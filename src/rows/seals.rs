//! `seal_rows` and `unseal_rows`, which set the tables that store a digest over each row.

use super::columns::kind_of;
use super::protect::one_by_one;
use super::seal::{FUNCTION, TRIGGER};
use pg::call::{Call, sql_functions};
use pg::error::{Error, Result};
use pg::notice::notice;
use pg::relation::{column_name, column_number, is_generated};
use pg::text::{self, literal, quoted_name};
use pg::user_table::{
    ACCESS_EXCLUSIVE, SHARE_ROW_EXCLUSIVE, TableRight, UserTable, add_column, comment,
    create_trigger, drop_trigger, ours,
};
use pgrx::pg_sys::{self, Datum, Oid};

sql_functions! {
    keysmith_seal_rows => seal_array;
    keysmith_seal_rows_columns => seal_columns;
    keysmith_unseal_rows => unseal_rows;
}

fn seal_array(call: &Call) -> Result<Option<Datum>> {
    let columns = call.strings(1, "columns")?;
    seal_rows(call, columns, &call.required_text(2, "seal_column")?)
}

fn seal_columns(call: &Call) -> Result<Option<Datum>> {
    seal_rows(call, one_by_one(call)?, "row_seal")
}

fn seal_rows(call: &Call, columns: Vec<String>, seal: &str) -> Result<Option<Datum>> {
    // Adding the column needs a stronger lock than the trigger. Taking it later could end in a
    // deadlock.
    let lock = if has_column(call.datum(0), seal) { SHARE_ROW_EXCLUSIVE } else { ACCESS_EXCLUSIVE };
    let table = UserTable::claim(call.datum(0), lock, TableRight::Ownership)?;
    table.must_not_be_catalog()?;
    table.own_trigger(TRIGGER, FUNCTION, "sealed")?;
    let covered = covered(&table, columns, seal)?;
    let table = with_column(table, call.datum(0), seal)?;
    // Seals have the name that the table had when it was first sealed.
    let before = table.trigger(TRIGGER, FUNCTION).map(|trigger| trigger.arguments);
    let identity = before.as_ref().and_then(|before| before.get(1).cloned());
    let mut arguments = vec![seal.to_owned(), identity.unwrap_or_else(|| table.name())];
    arguments.extend(covered);
    let parts = table.parts(SHARE_ROW_EXCLUSIVE, TableRight::Ownership)?;
    let bare: Vec<&UserTable> = parts
        .iter()
        .filter(|part| part.needs_trigger(&table))
        .filter(|part| part.trigger(TRIGGER, FUNCTION).is_none_or(|own| own.arguments != arguments))
        .collect();
    if bare.is_empty() {
        return Ok(None);
    }
    let arguments: Vec<String> = arguments.iter().map(|argument| literal(argument)).collect();
    for part in bare {
        let statement = format!(
            "CREATE OR REPLACE TRIGGER \"~keysmith_2_seal\" BEFORE INSERT OR UPDATE ON {}
             FOR EACH ROW EXECUTE FUNCTION keysmith.seal_row({})",
            part.name(),
            arguments.join(", ")
        );
        create_trigger(part, &statement, ours(FUNCTION, &[]));
    }
    notice(
        format!("rows of {} that are there are not sealed", table.name()),
        Some(format!(
            "UPDATE {} SET {} = '' seals them, as they are now.",
            table.name(),
            quoted_name(seal)
        )),
    );
    Ok(None)
}

/// Whether the table has such a column now.
fn has_column(relation: Option<Datum>, name: &str) -> bool {
    relation.is_some_and(|relation| number_of(Oid::from(relation.value() as u32), name) > 0)
}

/// The number of a column; 0 if the table has no such column, and less for a system column.
fn number_of(relation: Oid, name: &str) -> i16 {
    column_number(relation, &text::to_server(name))
}

/// The columns that a seal covers: the named columns, and those of the primary key, so that the
/// seal fits no other row. All columns if no column is named.
fn covered(table: &UserTable, mut columns: Vec<String>, seal: &str) -> Result<Vec<String>> {
    for column in &columns {
        let found = table.column(column).filter(|_| column != seal);
        let shown = quoted_name(column);
        let found = found.ok_or_else(|| {
            let name = table.name();
            Error::argument(
                "columns",
                format!("must name columns of {name} beside the seal, which {shown} is not"),
            )
        })?;
        if is_generated(found) {
            let rule = format!("must not be generated, and {}.{shown} is", table.name());
            return Err(Error::argument("columns", rule)
                .hint("It is computed from other columns: seal those."));
        }
    }
    if !columns.is_empty() {
        let key = table.primary_key();
        columns.extend(key.into_iter().filter(|own| !is_generated(own)).map(column_name));
    }
    columns.sort();
    columns.dedup();
    Ok(columns)
}

/// The table, with a column for the seal.
fn with_column(table: UserTable, relation: Option<Datum>, seal: &str) -> Result<UserTable> {
    if let Some(found) = table.column(seal) {
        if found.atttypid != pg_sys::BYTEAOID || is_generated(found) {
            let shown = format!("{}.{} is {}", table.name(), quoted_name(seal), kind_of(found));
            let rule = format!("must be of type bytea and not generated, and {shown}");
            return Err(Error::argument("seal_column", rule));
        }
        return Ok(table);
    }
    // PostgreSQL cuts longer names off.
    let length = text::to_server(seal).to_bytes().len();
    if !(1..pg_sys::NAMEDATALEN as usize).contains(&length) || number_of(table.oid(), seal) < 0 {
        let rule = "must be a name of 1 to 63 bytes that is no system column's";
        return Err(Error::argument("seal_column", rule));
    }
    let column = quoted_name(seal);
    let statement = format!("ALTER TABLE {} ADD COLUMN {column} pg_catalog.bytea", table.name());
    add_column(table, &statement);
    let table = UserTable::claim(relation, ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    if let Some(found) = table.column(seal) {
        let text = "A digest over the row, kept by keysmith.seal_rows";
        comment(pg_sys::RelationRelationId, table.oid(), found.attnum, text);
    }
    Ok(table)
}

fn unseal_rows(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    if table.own_trigger(TRIGGER, FUNCTION, "sealed")?.is_none() {
        return Err(Error::not_found(format!("rows of {} are not sealed", table.name())));
    }
    let parts = table.parts(ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    for part in parts.iter().filter(|part| part.needs_trigger(&table)) {
        if let Some(trigger) = part.trigger(TRIGGER, FUNCTION) {
            let statement = format!("DROP TRIGGER \"~keysmith_2_seal\" ON {}", part.name());
            drop_trigger(&statement, trigger.oid);
        }
    }
    Ok(None)
}
