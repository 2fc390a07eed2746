//! What there is to tell of the table.

use super::table::Table;
use crate::settings;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::result_set::ResultSet;
use pg::text;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

sql_functions! {
    keysmith_limit_status => limit_status;
}

fn limit_status(call: &Call) -> Result<Option<Datum>> {
    // SAFETY: the function is declared to return a set of rows.
    let result = unsafe { ResultSet::of(call) };
    let rows = match Table::shared() {
        None => vec![("limits", "unavailable: the library is not preloaded".to_string())],
        Some(table) => vec![
            ("limits", "available".to_string()),
            ("limit buckets in use", table.in_use().to_string()),
            ("limit buckets at most", settings::max_buckets().to_string()),
            ("calls refused for want of a bucket", table.refusals().to_string()),
            ("limits counted since", shown(table.started_at())),
        ],
    };
    for (name, value) in rows {
        // SAFETY: a row of two texts.
        unsafe { result.put([Some(text::datum(name)), Some(text::datum(&value))]) };
    }
    Ok(None)
}

fn shown(moment: pg_sys::TimestampTz) -> String {
    // SAFETY: timestamptz_out takes a timestamp and gives a C string.
    unsafe {
        let argument = [Some(Datum::from(moment))];
        pgrx::direct_function_call_as_datum(pg_sys::timestamptz_out, &argument)
            .map_or(String::new(), |text| {
                CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned()
            })
    }
}
