//! What requests add to the totals: rows of `usage_delta`, `usage_unit_delta` and `usage_tag_delta`. The triggers on
//! `usage_event` append the same for rows that a statement inserts.

use crate::catalog::PRIVATE;
use crate::usage::store::partitions::named;
use crate::usage::store::rows;
use keysmith_core::tally::Tally;
use pg::bulk::{can_fill, fill, with_array};
use pg::cell::Cell;
use pg::error::{Code, Error, Result};
use pg::lock::Mode;
use pg::relation::RelationView;
use pg::spi;
use pg::table::{Lock, with_table};
use pg::table_trigger::Trigger;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

const DELTAS: &CStr = c"usage_delta";
const UNIT_DELTAS: &CStr = c"usage_unit_delta";
const TAG_DELTAS: &CStr = c"usage_tag_delta";

/// Whether all tables are as the extension makes them.
pub fn are_plain() -> bool {
    is_as_made(DELTAS, &rows::DELTA)
        && is_as_made(UNIT_DELTAS, &rows::UNIT_DELTA)
        && is_as_made(TAG_DELTAS, &rows::TAG_DELTA)
}

fn is_as_made<const COLUMNS: usize>(name: &CStr, columns: &[Oid; COLUMNS]) -> bool {
    named(name).is_some_and(|table| {
        with_table(table, Mode::RowExclusive, Lock::Kept, |table| is_plain(table, columns))
    })
}

/// A trigger that somebody put on a table must fire.
fn is_plain<const COLUMNS: usize>(table: RelationView<'_>, columns: &[Oid; COLUMNS]) -> bool {
    let fires = |trigger: &Trigger| trigger.fires && trigger.is_for_inserts();
    !table.triggers().iter().any(fires) && can_fill(table, columns)
}

/// Appends what was counted: directly, or by a statement if a table is not as the extension makes it.
pub fn add(mut tally: Tally) -> Result<()> {
    let (units, tags) = (tally.take_units(), tally.take_tags());
    let groups = tally.into_sorted();
    let deltas = groups.iter().map(|(group, counts)| rows::delta(group, counts));
    append(DELTAS, &rows::DELTA, deltas)?;
    let deltas = units.iter().map(|(unit, amount)| rows::unit_delta(unit, *amount));
    append(UNIT_DELTAS, &rows::UNIT_DELTA, deltas)?;
    let deltas = tags.iter().map(|(tag, counts)| rows::tag_delta(tag, counts));
    append(TAG_DELTAS, &rows::TAG_DELTA, deltas)
}

fn append<'a, const COLUMNS: usize>(
    name: &CStr,
    columns: &[Oid; COLUMNS],
    rows: impl ExactSizeIterator<Item = [Cell<'a>; COLUMNS]>,
) -> Result<()> {
    if rows.len() == 0 {
        return Ok(());
    }
    let appended = named(name).and_then(|table| {
        with_table(table, Mode::RowExclusive, Lock::Kept, |table| {
            if is_plain(table, columns) {
                return fill(table, columns, rows).then_some(Ok(()));
            }
            with_array(table, columns, rows, |batch| insert(name, batch))
        })
    });
    appended.unwrap_or_else(|| {
        let why = format!("{} is not what the library expects", qualified(name));
        Err(Error::new(Code::Installation, why))
    })
}

fn insert(name: &CStr, batch: Cell<'_>) -> Result<()> {
    let table = qualified(name);
    spi::execute(
        &format!("INSERT INTO {table} SELECT batch.* FROM pg_catalog.unnest($1) AS batch"),
        &[batch],
    )?;
    Ok(())
}

fn qualified(name: &CStr) -> String {
    format!("{}.{}", PRIVATE.to_string_lossy(), name.to_string_lossy())
}
