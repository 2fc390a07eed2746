//! Changes of privileges: they take turns, and an error names the session that is in their way.

use super::turns;
use crate::catalog::Catalog;
use pg::error::{Code, Error, Result};
use pg::major;
use pg::row_lock::{Deadline, LockHolder};
use pg::spi::{self, Param};
use pgrx::pg_sys::Oid;

/// In milliseconds.
const MOST_WAITED: i32 = 1000;

/// Sessions that grant or revoke take turns: of two that change the privileges of one object
/// at the same time, one would fail.
///
/// A role may GRANT what it may use. Without a grant option that gives nothing, and PostgreSQL
/// still writes the object's row, for which others wait until the role's transaction ends.
/// So the wait is short, and the error names the session to end.
pub fn one_at_a_time() -> Result<()> {
    let catalog = Catalog::open()?;
    turns::of_table(catalog.tables.access.table);
    let deadline = Deadline::after(MOST_WAITED);
    let changed = "SELECT t FROM keysmith_private.privileges_changed_by() AS t";
    let transactions: Vec<_> = spi::query_now(changed, &[], |rows| {
        rows.iter().filter_map(|row| row.transaction(1)).collect()
    })?;
    for holder in transactions.into_iter().filter_map(LockHolder::of) {
        if !deadline.wait_for(&holder) {
            return Err(not_committed(&holder)?);
        }
    }
    if major::GRANT_LOCKS { lock_views(deadline) } else { Ok(()) }
}

fn not_committed(holder: &LockHolder) -> Result<Error> {
    let who = spi::first(
        "SELECT keysmith_private.lock_holder(pid, virtualtransaction) FROM pg_catalog.pg_locks
         WHERE locktype = 'transactionid' AND transactionid = $1 AND granted",
        &[Param::transaction(holder.topmost())],
        |row| row.text(1),
    )?;
    let who = who.unwrap_or_else(|| "a transaction".into());
    Ok(in_the_way(format!("{who} has changed privileges of keysmith's objects, and not committed")))
}

/// A role that can name a view can wait for a lock that excludes readers. While it waits, new
/// readers wait too.
fn lock_views(deadline: Deadline) -> Result<()> {
    let views = spi::all(
        "SELECT oid FROM pg_catalog.pg_class
         WHERE relnamespace = 'keysmith'::regnamespace AND relkind = 'v' ORDER BY oid",
        &[],
        |row| row.oid(1),
    )?;
    for view in views {
        if !deadline.lock_as_readers_do(view) {
            return Err(kept_from_readers(view)?);
        }
    }
    Ok(())
}

fn kept_from_readers(view: Oid) -> Result<Error> {
    let found = spi::first(
        "SELECT pg_catalog.string_agg(DISTINCT keysmith_private.lock_holder(l.pid, l.virtualtransaction), ', '),
                $1::regclass::text
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
         WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'relation'
           AND l.relation = $1 AND l.mode = 'AccessExclusiveLock'",
        &[Param::oid(view)],
        |row| Some((row.text(1), row.text(2))),
    )?;
    let (who, view) = found.unwrap_or_default();
    let (who, view) = (who.unwrap_or_else(|| "a session".into()), view.unwrap_or_default());
    Ok(in_the_way(format!("{who} has locked {view}, or waits to lock it")))
}

fn in_the_way(message: String) -> Error {
    Error::new(Code::LockNotAvailable, message).hint(
        "Nothing was changed. End it with pg_terminate_backend or ROLLBACK PREPARED, and call the \
         function again.",
    )
}
