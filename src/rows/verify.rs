//! `verify_rows` finds rows whose seal is missing or wrong.

use super::notices::PageNotices;
use super::seal::{FUNCTION, Plan, TRIGGER};
use pg::call::{Call, sql_functions};
use pg::context::Owned;
use pg::error::{Error, Result};
use pg::relation::column_name;
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param};
use pg::text;
use pg::types::{self, Output};
use pg::user_table::{ACCESS_SHARE, Latest, TableRight, UserRow, UserTable, each_row};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CString;
use std::ops::ControlFlow;
use std::rc::Rc;

sql_functions! {
    keysmith_verify_rows => verify_rows;
}

fn verify_rows(call: &Call) -> Result<Option<Datum>> {
    let table = UserTable::claim(call.datum(0), ACCESS_SHARE, TableRight::Reading)?;
    let trigger = table.trigger(TRIGGER, FUNCTION).ok_or_else(|| {
        Error::not_found(format!("rows of {} are not sealed", table.name()))
            .hint("Call keysmith.seal_rows first.")
    })?;
    let parts = table.parts(ACCESS_SHARE, TableRight::Reading)?;
    let result = ResultSet::of(call);
    let snapshot = Latest::now();
    for part in parts.iter().filter(|part| part.has_rows()) {
        broken_seals(part, &trigger.arguments, &snapshot, |row, key, problem| {
            let (table, place) = (Cell::regclass(part.oid()), Cell::tid(row.place()));
            result.put([table, place, key, Cell::text(problem)]);
        })?;
    }
    Ok(None)
}

/// Passes on each row of a table whose seal is missing or wrong, with its primary key and what is
/// wrong. `arguments` are those of the trigger that seals the rows.
pub fn broken_seals(
    part: &UserTable,
    arguments: &[String],
    snapshot: &Latest,
    mut to: impl FnMut(&UserRow, Cell, &str),
) -> Result<()> {
    // The arguments of the trigger are in the encoding of the database.
    let arguments: Vec<CString> =
        arguments.iter().map(|argument| text::to_server(argument)).collect();
    let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.to_bytes()).collect();
    let plan = Plan::of(part.description(), &arguments)?;
    let mut notices = PageNotices::of(part, "checked");
    let key = PrimaryKey::of(part);
    each_row(part, snapshot, |row| {
        notices.at(row);
        if let Err(problem) = plan.check(|column| row.value(column)) {
            key.show(row, |key| to(row, key, &problem.text()))?;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// The primary key of a table, by which rows are shown.
struct PrimaryKey(Vec<KeyColumn>);

struct KeyColumn {
    name: String,
    number: i16,
    kind: Oid,
    /// The output function for a value of a user-defined type. Only superusers can choose that
    /// function; any user may make a cast of the type to JSON.
    output: Option<Output>,
}

impl PrimaryKey {
    fn of(part: &UserTable) -> PrimaryKey {
        let memory = Rc::new(Owned::new());
        let columns = part.primary_key().into_iter().map(|attribute| {
            let kind = types::base(attribute.atttypid);
            let is_ours = kind.to_u32() >= pg_sys::FirstNormalObjectId;
            KeyColumn {
                name: column_name(attribute),
                number: attribute.attnum,
                kind,
                output: is_ours.then(|| Output::text(attribute.atttypid, &memory)),
            }
        });
        PrimaryKey(columns.collect())
    }

    /// Hands on the key of a row as jsonb.
    fn show(&self, row: &UserRow, to: impl FnOnce(Cell)) -> Result<()> {
        if self.0.is_empty() {
            to(Cell::jsonb(None));
            return Ok(());
        }
        let shown = |column: &KeyColumn| {
            let value = row.value(column.number);
            let written = |output: &Output| value.map(|value| text::lossy(&output.written(value)));
            (value, column.output.as_ref().and_then(written))
        };
        let shown: Vec<_> = self.0.iter().map(shown).collect();
        let mut values = Vec::with_capacity(2 * self.0.len());
        for (column, (value, text)) in self.0.iter().zip(&shown) {
            values.push(Param::text(&column.name));
            values.push(match column.output {
                Some(_) => Param::text_or_null(text.as_deref()),
                None => value.map_or(Param::null(column.kind), |value| {
                    Param::value(types::of_base_type(value))
                }),
            });
        }
        let places: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
        let statement = format!("SELECT pg_catalog.jsonb_build_object({})", places.join(", "));
        spi::session(|| {
            spi::query(&statement, &values, |rows| {
                to(Cell::jsonb(rows.first().as_ref().and_then(|row| row.jsonb(1))));
            })
        })
    }
}
