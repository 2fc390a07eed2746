//! `doctor`: finds faults of the installation. SQL checks the catalogs and settings; this file
//! adds the checks of what only the library knows.

use super::authority;
use super::level::functions;
use crate::audit::event;
use crate::pepper::{self, peppers};
use crate::{limit, settings};
use keysmith_core::key::pepper::UNPEPPERED;
use pg::call::Call;
use pg::error::Result;
use pg::result_set::ResultSet;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_doctor => doctor: Oversight;
}

fn doctor(call: &Call) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    authority::look(needs::doctor, |_| {
        let lost = lost_peppers()?;
        let (unsent, last_unsent_at) = event::unsent();
        spi::query(
            "SELECT * FROM keysmith_private.doctor_findings($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                Param::boolean(limit::is_there()),
                Param::text(env!("CARGO_PKG_VERSION")),
                Param::text_or_null(pepper::complaint().as_deref()),
                Param::texts(&lost),
                Param::smallint(peppers().newest()),
                Param::integer(Some(settings::event_queue_limit())),
                Param::bigint(unsent),
                Param::timestamp(last_unsent_at),
            ],
            |rows| rows.put_into(result),
        )
    })?;
    Ok(None)
}

/// The generations of peppers that keys are stored with, and that aren't there.
fn lost_peppers() -> Result<Vec<String>> {
    let stored = spi::all(
        "SELECT DISTINCT generation FROM keysmith_private.key WHERE revoked_at IS NULL ORDER BY 1",
        &[],
        |row| row.smallint(1),
    )?;
    let is_there = |generation: i16| match generation {
        UNPEPPERED => peppers().accepts_unpeppered(),
        _ => peppers().generations().any(|known| known == generation),
    };
    Ok(stored
        .into_iter()
        .filter(|generation| !is_there(*generation))
        .map(|g| g.to_string())
        .collect())
}
