//! `hashing_state`: the progress of `protect_existing`, as the view `hashing_progress` shows it.

use super::authority;
use crate::rows::progress::HashingProgress;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::result_set::{Cell, ResultSet};
use pg::user_table::is_own;
use pgrx::pg_sys::{Datum, Oid};

sql_functions! {
    keysmith_hashing_state => hashing_state;
}

/// A row of the view `hashing_progress`, without the table: phase, part, round, pages_total,
/// pages_done, rows_done, started_at, finished_at. No row for a caller who may not see it.
fn hashing_state(call: &Call) -> Result<Option<Datum>> {
    let oid = |n| Oid::from(call.integer(n).unwrap_or_default() as u32);
    let result = ResultSet::of(call);
    if !is_own(oid(0)) && authority::sight()?.tenants.is_some() {
        return Ok(None);
    }
    let progress = HashingProgress::of(oid(1));
    let phase = match (progress.started_at, progress.finished_at) {
        (None, _) => "not begun",
        (_, None) => "digesting rows",
        _ => "done",
    };
    let done = progress.pages_done.min(progress.pages_total);
    let begun = |pages: i64| Cell::bigint(progress.started_at.map(|_| pages));
    result.put([
        Cell::text(phase),
        Cell::text_or_null(progress.part.as_deref().filter(|_| progress.is_under_way())),
        Cell::integer(progress.started_at.map(|_| progress.round as i32)),
        begun(progress.pages_total),
        begun(done),
        begun(progress.rows),
        Cell::timestamp(progress.started_at),
        Cell::timestamp(progress.finished_at),
    ]);
    Ok(None)
}
