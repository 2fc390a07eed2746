//! Events: the entries of a chain of the audit, from a position on.
//!
//! The rights are checked as the caller; the rows are read as the owner.

use super::authority;
use super::keyspace::check_known;
use super::level::functions;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::result_set::ResultSet;
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_events_after => events_after: Oversight;
}

/// The most events of one call.
const MOST: i32 = 1000;

fn events_after(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let after = call
        .bigint(1)
        .filter(|after| *after >= 0)
        .ok_or_else(|| Error::argument("after", "must be a position, or 0 for the beginning"))?;
    let most = call
        .integer(2)
        .filter(|most| (1..=MOST).contains(most))
        .ok_or_else(|| Error::argument("most", format!("must be 1 to {MOST}")))?;
    let result = ResultSet::of(call);
    authority::look(needs::events_after, |_| {
        // A keyspace that was dropped still has its events.
        let found = read(&keyspace, after, most, result)?;
        if found == 0 { check_known_or_dropped(&keyspace) } else { Ok(()) }
    })?;
    Ok(None)
}

fn read(keyspace: &str, after: i64, most: i32, result: ResultSet) -> Result<usize> {
    spi::query(
        saved!(
            "SELECT position, at, event, key_id, tenant, detail FROM keysmith_private.all_events
             WHERE keyspace = $1 AND position > $2 ORDER BY position LIMIT $3"
        ),
        &[Param::text(keyspace), Param::bigint(Some(after)), Param::integer(Some(most))],
        |rows| {
            rows.put_into(result);
            rows.iter().count()
        },
    )
}

fn check_known_or_dropped(keyspace: &str) -> Result<()> {
    let has_chain = spi::execute(
        "SELECT FROM keysmith_private.audit_entry WHERE keyspace = $1 AND keyspace <> '*' LIMIT 1",
        &[Param::text(keyspace)],
    )?;
    if has_chain > 0 { Ok(()) } else { check_known(keyspace) }
}
