//! The state of a key, as lists show it.

use pg::call::{Call, sql_functions};
use pg::datum;
use pg::error::Result;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_key_status => key_status;
}

/// From the times at which the key was revoked, expires and was disabled, the reason of that, and the
/// present.
fn key_status(call: &Call) -> Result<Option<Datum>> {
    let is_revoked = call.timestamp(0).is_some();
    let is_expired = call.timestamp(1).zip(call.timestamp(4)).is_some_and(|(at, now)| at <= now);
    let is_disabled = call.timestamp(2).is_some();
    let is_idle = call.datum(3).is_some();
    let status: &[u8] = match (is_revoked, is_expired, is_disabled, is_idle) {
        (true, ..) => b"revoked",
        (_, true, ..) => b"expired",
        (.., true, true) => b"idle",
        (.., true, false) => b"disabled",
        _ => b"active",
    };
    Ok(Some(datum::bytes(status)))
}
