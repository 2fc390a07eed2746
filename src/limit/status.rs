//! What there is to tell of the table.

use super::table::Table;
use crate::call::{Call, result_set, sql_functions};
use crate::error::Result;
use crate::{guc, text};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

sql_functions! {
    keysmith_limit_status => limit_status;
}

fn limit_status(call: &Call) -> Result<Option<Datum>> {
    // SAFETY: the function is declared to return a set of rows.
    let result = unsafe { result_set(call, 0) };
    let rows = match Table::shared() {
        None => vec![("limits", "unavailable: the library is not preloaded".to_string())],
        Some(table) => vec![
            ("limits", "available".to_string()),
            ("limit buckets in use", table.in_use().to_string()),
            ("limit buckets at most", guc::max_buckets().to_string()),
            ("calls refused for want of a bucket", table.refusals().to_string()),
            ("limits counted since", shown(table.started_at())),
        ],
    };
    for (name, value) in rows {
        let mut values = [text::datum(name), text::datum(&value)];
        let mut nulls = [false; 2];
        // SAFETY: the store is one of rows of two texts; they are copied.
        unsafe {
            pg_sys::tuplestore_putvalues(
                result.setResult,
                result.setDesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
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
