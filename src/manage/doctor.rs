//! `doctor`: finds faults of the installation. SQL checks them; this file adds what only the library
//! knows about peppers and signing secrets.

use super::authority;
use super::level::functions;
use crate::pepper::{self, peppers};
use crate::signing;
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
        let lost = lost_peppers(
            "SELECT DISTINCT generation FROM keysmith_private.key WHERE revoked_at IS NULL ORDER BY 1",
        )?;
        let of_ledgers =
            lost_peppers("SELECT DISTINCT generation FROM keysmith_private.ledger ORDER BY 1")?;
        spi::query(
            "SELECT * FROM keysmith_private.doctor_findings($1, $2, $3, $4)",
            &[
                Param::text_or_null(pepper::FILE.complaint().as_deref()),
                Param::texts(&lost),
                Param::texts(&of_ledgers),
                Param::text_or_null(signing::FILE.complaint().as_deref()),
            ],
            |rows| rows.put_into(result),
        )
    })?;
    Ok(None)
}

/// Those of the generations of peppers that a statement returns, and that aren't there.
fn lost_peppers(needed: &str) -> Result<Vec<String>> {
    let stored = spi::all(needed, &[], |row| row.smallint(1))?;
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
