//! `status`: counters of keys, events, limits and usage.

use super::level::functions;
use super::listing::put_all;
use crate::audit::event;
use pg::call::Call;
use pg::error::Result;
use pg::spi::Param;
use pgrx::pg_sys::Datum;

functions! {
    keysmith_status => status: Oversight;
}

/// Counts of keys and events, and the state of limits and usage.
fn status(call: &Call) -> Result<Option<Datum>> {
    let (count, last_at) = event::unsent();
    put_all(
        call,
        needs::status,
        "SELECT * FROM keysmith_private.counters($1, $2)",
        &[Param::bigint(count), Param::timestamp(last_at)],
    )
}
