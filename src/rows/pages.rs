//! Digests some pages of a protected table by an update that sets each column to itself. The
//! trigger recognizes this update, and digests the values.

use super::forms::Column;
use keysmith_core::rows::stored::TEXT_MOST;
use pg::error::{Code, Error, Result};
use pg::user_table::{Latest, UserTable, each_row_of, set_constraints_immediate, update_in_place};
use pgrx::pg_sys::{ItemPointerData, Oid};
use std::cell::Cell;
use std::ops::{ControlFlow, Range};

thread_local! {
    /// The table that is being digested.
    static WALKED: Cell<Oid> = const { Cell::new(Oid::INVALID) };
}

/// Whether the current update is one that digests the values of this table.
pub fn is_walking(relation: Oid) -> bool {
    WALKED.get() == relation
}

/// Ends the walk, even if the statement fails.
struct Walk;

impl Drop for Walk {
    fn drop(&mut self) {
        WALKED.set(Oid::INVALID);
    }
}

/// The number of pages per update, so that the TIDs of their rows fit into memory.
const MOST_AT_ONCE: usize = 1000;

/// Makes the trigger digest the values in some pages of a locked table, and returns the number of
/// rows. The update runs as the owner of the table, with its triggers, checks and indexes. The
/// rules and policies of the table are not applied: they could hide rows.
pub fn digest(part: &UserTable, columns: &[Column], pages: Range<u32>) -> Result<i64> {
    set_constraints_immediate();
    let mut rows = 0;
    for first in pages.clone().step_by(MOST_AT_ONCE) {
        let beyond = first.saturating_add(MOST_AT_ONCE as u32).min(pages.end);
        let snapshot = Latest::now();
        let places = places(part, columns, first..beyond, &snapshot)?;
        rows += update(part, columns, &places, &snapshot)?;
    }
    Ok(rows)
}

/// The rows with a value that is not a digest.
fn places(
    part: &UserTable,
    columns: &[Column],
    pages: Range<u32>,
    snapshot: &Latest,
) -> Result<Vec<ItemPointerData>> {
    let mut places = Vec::new();
    each_row_of(part, pages, snapshot, |row| {
        let is_plain = columns.iter().any(|column| {
            row.value(column.number)
                .is_some_and(|value| !column.kind.is_stored(value.bytes_up_to(TEXT_MOST)))
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
    places: &[ItemPointerData],
    snapshot: &Latest,
) -> Result<i64> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    WALKED.set(part.oid());
    let _walk = Walk;
    update_in_place(part, &names, places, snapshot).ok_or_else(|| {
        let message = format!("{} is another table now", part.name());
        Error::new(Code::Conflict, message).hint("Call keysmith.protect_existing again.")
    })
}
