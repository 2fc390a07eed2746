//! Digests and other values in a column.

use super::value::Kind;
use keysmith_core::rows::stored::TEXT_MOST;
use pg::error::{Code, Error, Result};
use pg::relation::is_generated;
use pg::user_table::{Latest, UserTable, each_row};
use std::ops::ControlFlow;

/// Whether a column has digests, and whether it has other values. Nulls are neither.
#[derive(Clone, Copy, Default)]
pub struct Forms {
    pub has_digests: bool,
    pub has_values: bool,
}

impl Forms {
    /// Looks at a column in some tables, which are locked.
    pub fn of(parts: &[&UserTable], column: &str, snapshot: &Latest) -> Result<Forms> {
        let mut found = Forms::default();
        look(parts, column, snapshot, |is_digest| {
            found.has_digests |= is_digest;
            found.has_values |= !is_digest;
            !(found.has_digests && found.has_values)
        })?;
        Ok(found)
    }
}

/// The number of values that are not digests.
pub fn values_left(parts: &[&UserTable], column: &str, snapshot: &Latest) -> Result<i64> {
    let mut left = 0;
    look(parts, column, snapshot, |is_digest| {
        left += i64::from(!is_digest);
        true
    })?;
    Ok(left)
}

/// Calls `seen` for each value with whether it has the form of a digest, until that returns
/// false.
fn look(
    parts: &[&UserTable],
    column: &str,
    snapshot: &Latest,
    mut seen: impl FnMut(bool) -> bool,
) -> Result<()> {
    let mut goes_on = true;
    for part in parts.iter().filter(|part| part.has_rows()) {
        let Column { number, kind, .. } = Column::of(part, column)?;
        each_row(part, snapshot, |row| {
            if let Some(value) = row.value(number) {
                goes_on = seen(kind.is_stored(value.bytes_up_to(TEXT_MOST)));
            }
            Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// A column that can hold digests.
pub struct Column {
    pub name: String,
    pub number: i16,
    pub kind: Kind,
}

impl Column {
    /// Reads the description of a table that is locked.
    pub fn of(part: &UserTable, name: &str) -> Result<Column> {
        let found = part.column(name).filter(|found| !is_generated(found));
        let column = found.and_then(|found| {
            let kind = Kind::of(found)?;
            Some(Column { name: name.to_owned(), number: found.attnum, kind })
        });
        column.ok_or_else(|| {
            let table = part.name();
            let message = format!("table {table} has no column {name} that can hold digests");
            Error::new(Code::Conflict, message).hint(
                "After renaming a column or changing its type, call keysmith.unprotect and keysmith.protect.",
            )
        })
    }
}
