//! The state of the table, for `keysmith.limit_status()`.

use super::table::BucketTable;
use super::unsettled;
use crate::settings;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::result_set::{Cell, ResultSet};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_limit_status => limit_status;
}

fn limit_status(call: &Call) -> Result<Option<Datum>> {
    let table = BucketTable::shared();
    let failures = BucketTable::of_failures();
    ResultSet::of(call).put([
        Cell::boolean(table.is_some()),
        Cell::integer(table.map(|table| table.in_use() as i32)),
        Cell::integer(table.map(|_| settings::max_buckets())),
        Cell::bigint(table.map(|table| table.refusals() as i64)),
        Cell::timestamp(table.map(|table| table.last_refusal_at()).filter(|at| *at != 0)),
        Cell::timestamp(table.map(|table| table.started_at())),
        Cell::bigint(unsettled::lost().map(|lost| lost as i64)),
        Cell::integer(failures.map(|table| table.in_use() as i32)),
        Cell::integer(failures.map(|_| settings::max_failing_addresses())),
        Cell::bigint(failures.map(|table| table.refusals() as i64)),
        Cell::timestamp(failures.map(|table| table.last_refusal_at()).filter(|at| *at != 0)),
    ]);
    Ok(None)
}
