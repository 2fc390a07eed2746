//! The rows of a table, as sums.

use super::entry::Ledger;
use super::form::RowForm;
use keysmith_core::ledger::sums::Sums;
use pg::error::Result;
use pg::notice::notice;
use pg::user_table::{Latest, UserRow, UserTable, each_row};
use std::ops::ControlFlow;

/// The least number of pages between two notices. A large table has some twenty notices.
const LEAST: u32 = 1000;

/// The sums of the rows of a table that a snapshot sees, without the tables that inherit from it.
/// Notices tell how far it is.
pub fn sums_of(
    ledger: &Ledger,
    part: &UserTable,
    names: &[String],
    snapshot: &Latest,
) -> Result<Sums> {
    let pages = part.pages();
    let portion = (pages / 20).max(LEAST);
    let mut next = portion;
    sums(ledger, part, names, snapshot, |row| {
        while next < pages && row.page() >= next {
            notice(format!("read {next} of {pages} pages of {}", part.name()), None);
            next = next.saturating_add(portion);
        }
    })
}

/// The same without notices, for TRUNCATE.
pub fn sums_quietly(
    ledger: &Ledger,
    part: &UserTable,
    names: &[String],
    snapshot: &Latest,
) -> Result<Sums> {
    sums(ledger, part, names, snapshot, |_| {})
}

fn sums(
    ledger: &Ledger,
    part: &UserTable,
    names: &[String],
    snapshot: &Latest,
    mut seen: impl FnMut(&UserRow),
) -> Result<Sums> {
    let mut sums = Sums::default();
    if !part.has_rows() {
        return Ok(sums);
    }
    let form = RowForm::of(ledger, part.view(), names)?;
    form.with_settings(|| {
        each_row(part, snapshot, |row| {
            seen(row);
            row.read_up_to(form.last);
            let (range, hash) = form.hash(|column| row.value(column));
            sums.insert(range, hash);
            Ok(ControlFlow::Continue(()))
        })
    })?;
    Ok(sums)
}
