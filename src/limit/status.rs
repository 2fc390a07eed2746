//! The state of the table, for `keysmith.status()`.

use super::table::BucketTable;
use crate::settings;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::output;
use pg::result_set::{Cell, ResultSet};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_limit_status => limit_status;
}

fn limit_status(call: &Call) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    let rows = match BucketTable::shared() {
        None => vec![("limits", "unavailable: the library is not preloaded".to_string())],
        Some(table) => vec![
            ("limits", "available".to_string()),
            ("limit buckets in use", table.in_use().to_string()),
            ("limit buckets at most", settings::max_buckets().to_string()),
            ("calls refused for want of a bucket", table.refusals().to_string()),
            ("limits counted since", output::timestamp(table.started_at())),
        ],
    };
    for (name, value) in rows {
        result.put([Cell::text(name), Cell::text(&value)]);
    }
    Ok(None)
}
