//! The rows of tables, as sums.

use super::entry::Ledger;
use super::form::RowForm;
use crate::rows::notices::PageNotices;
use keysmith_core::ledger::sums::Sums;
use pg::error::Result;
use pg::scan::Snapshot;
use pg::user_table::{Latest, UserRow, UserTable, each_row};
use std::ops::ControlFlow;

/// The sums of the rows of some tables that a snapshot sees. Notices tell how far it is.
pub fn sums_of<'a>(
    ledger: &Ledger,
    tables: impl IntoIterator<Item = &'a UserTable>,
    names: &[String],
    snapshot: &Snapshot,
) -> Result<Sums> {
    let mut sums = Sums::default();
    for table in tables {
        let mut notices = PageNotices::of(table, "read");
        add_rows(&mut sums, ledger, table, names, snapshot, |row| notices.at(row))?;
    }
    Ok(sums)
}

/// Adds the rows of a table, without those of tables that inherit from it. `seen` is called with each.
pub fn add_rows(
    sums: &mut Sums,
    ledger: &Ledger,
    table: &UserTable,
    names: &[String],
    snapshot: &Snapshot,
    mut seen: impl FnMut(&UserRow),
) -> Result<()> {
    if !table.has_rows() {
        return Ok(());
    }
    let form = RowForm::of(ledger, table.view(), names)?;
    form.with_settings(|| {
        each_row(table, &Latest::from(snapshot), |row| {
            seen(row);
            row.read_up_to(form.last);
            let (range, hash) = form.hash(|column| row.value(column));
            sums.insert(range, hash);
            Ok(ControlFlow::Continue(()))
        })
    })
}
