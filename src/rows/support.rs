//! Has the planner look up `matches(value, column)` in an index of the column, by
//! `column = ANY (digests(value))`.

use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::index_condition::IndexCondition;
use pg::user_table::ours;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_matches_support => matches_support;
}

fn matches_support(call: &Call) -> Result<Option<Datum>> {
    let condition = IndexCondition::of(call)
        .filter(|condition| condition.argument() == 1)
        // Behind other columns, a list of values makes the index's order another than the
        // planner takes it for: `column = ANY` in a query has its own care for that.
        .filter(IndexCondition::is_leading_in_btree)
        // Equality of PostgreSQL's own is that of bytes.
        .filter(IndexCondition::has_builtin_operators)
        .and_then(|condition| condition.any(0, |kind| ours(c"digests", &[kind])));
    // Not an SQL null: no answer.
    Ok(Some(condition.unwrap_or(Datum::null())))
}
