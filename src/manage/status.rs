//! `status`: the state of the installation. SQL counts rows; this file adds what only the library
//! knows.

use super::level::functions;
use super::listing::put_all;
use crate::audit::event;
use crate::catalog::{Catalog, directory};
use crate::pepper::{self, peppers};
use crate::usage::queue::decisions::Decisions;
use crate::usage::session::worker_slot;
use crate::{lag, limit, settings, signing};
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::result_set::{Cell, ResultSet};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_status => status: Oversight;
}

sql_functions! {
    keysmith_library => library;
    keysmith_decisions => decisions;
}

fn status(call: &Call) -> Result<Option<Datum>> {
    put_all(call, needs::status, "SELECT * FROM keysmith_private.installation()", &[])
}

fn library(call: &Call) -> Result<Option<Datum>> {
    let (unsent, last_unsent_at) = event::unsent();
    let room = directory::room();
    let found = room.is_some_and(|(_, capacity)| capacity > 0).then(counted).flatten();
    let found = found.map(|decisions| decisions.hits_and_misses());
    let count = |n: Option<u64>| Cell::bigint(n.map(|n| n as i64));
    ResultSet::of(call).put([
        Cell::text(env!("CARGO_PKG_VERSION")),
        Cell::boolean(limit::is_there()),
        Cell::boolean(Catalog::open()?.is_subscriber()),
        Cell::integer(Some(peppers().newest().into())),
        Cell::boolean(pepper::FILE.complaint().is_some()),
        Cell::boolean(signing::FILE.complaint().is_some()),
        Cell::bigint(unsent),
        Cell::timestamp(last_unsent_at),
        Cell::integer(Some(settings::event_queue_limit())),
        Cell::double(lag::most()),
        count(room.map(|(used, _)| used)),
        count(room.map(|(_, capacity)| capacity)),
        count(found.map(|(hits, _)| hits)),
        count(found.map(|(_, misses)| misses)),
    ]);
    Ok(None)
}

/// The decisions of this database; `None` if they are not counted.
fn counted() -> Option<Decisions> {
    worker_slot::find_place().map(|(_, place)| Decisions::of(place))
}

fn decisions(call: &Call) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    for (reason, count) in counted().iter().flat_map(Decisions::by_reason) {
        result.put([Cell::text(reason.name()), Cell::bigint(Some(count as i64))]);
    }
    Ok(None)
}
