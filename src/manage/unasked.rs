//! What acts of the worker, which nobody asked for, have in common.

use crate::audit::{self, Actor};
use crate::catalog::Catalog;
use crate::usage::session::worker_slot;
use pg::clock::monotonic;
use pg::error::Result;
use pg::notice::warning;
use pg::{role, spi, text};

/// Who acts: the extension's owner.
pub fn actor() -> Actor {
    Actor {
        role: text::name_of_role(role::current()),
        session_role: text::name_of_role(role::of_session()),
        key: None,
        member: None,
    }
}

/// The keyspaces whose chains of the audit can be extended. The others wait until their cause is fixed:
/// a commit that fails would undo what was done in all.
pub fn keyspaces(catalog: &Catalog) -> Result<Vec<String>> {
    let all = spi::all("SELECT keyspace FROM keysmith_private.keyspace", &[], |row| row.text(1))?;
    let mut warns = None;
    let is_extensible = |keyspace: &String| match audit::must_be_extensible(catalog, keyspace) {
        Ok(()) => true,
        Err(error) => {
            if *warns.get_or_insert_with(may_warn) {
                warning(format!("keysmith: {}", error.message()), None);
            }
            false
        }
    };
    Ok(all.into_iter().filter(is_extensible).collect())
}

/// How often the worker, which looks every few seconds, warns of such chains. In microseconds.
const PAUSE: i64 = 60 * 60 * 1_000_000;

fn may_warn() -> bool {
    let place = if pg::worker::is_one() { worker_slot::find_place() } else { None };
    let Some((queue, place)) = place else { return true };
    let now = monotonic();
    let is_due = queue.with(place, |database| {
        let warned_at = &mut database.worker.warned_at;
        let is_due = *warned_at == 0 || now - *warned_at >= PAUSE;
        if is_due {
            *warned_at = now;
        }
        is_due
    });
    is_due.unwrap_or(true)
}
