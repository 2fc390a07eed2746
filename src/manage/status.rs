//! `status`: counters of keys, events, limits and usage, and whether the database is a subscriber.

use super::level::functions;
use super::listing::put_all;
use crate::audit::event;
use crate::catalog::Catalog;
use pg::call::Call;
use pg::error::Result;
use pg::spi::Param;
use pgrx::pg_sys::Datum;

functions! {
    keysmith_status => status: Oversight;
}

/// Counts of keys and events, the state of limits and usage, and whether this is a subscriber.
fn status(call: &Call) -> Result<Option<Datum>> {
    let (count, last_at) = event::unsent();
    let is_subscriber = Catalog::open()?.is_subscriber();
    put_all(
        call,
        needs::status,
        "SELECT * FROM keysmith_private.counters($1, $2, $3)",
        &[Param::bigint(count), Param::timestamp(last_at), Param::boolean(is_subscriber)],
    )
}
