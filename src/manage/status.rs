//! `status`: counters of keys, events, limits and usage.

use super::listing::put_all;
use crate::audit::event;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::spi::Param;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_status => status;
}

fn status(call: &Call) -> Result<Option<Datum>> {
    let (count, last_at) = event::unsent();
    put_all(
        call,
        "SELECT * FROM keysmith_private.counters($1, $2)",
        &[Param::bigint(count), Param::timestamp(last_at)],
    )
}
