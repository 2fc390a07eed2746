//! Makes the planner look up `matches(value, column)` in an index of the column, by
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
        // A list of values for a later column of an index changes the order of its results.
        // The planner takes care of that for a `column = ANY` in a query, but not here.
        .filter(IndexCondition::is_leading_in_btree)
        // PostgreSQL's own operators of equality compare bytes.
        .filter(IndexCondition::has_builtin_operators)
        .and_then(|condition| condition.any(0, |kind| ours(c"digests", &[kind])));
    // A null pointer means that there is no answer; it is not an SQL null.
    Ok(Some(condition.unwrap_or(Datum::null())))
}
