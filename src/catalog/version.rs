//! The version of a policy is the row of its keyspace.
//!
//! A change of another policy table updates that row in the same transaction. Writers of one row
//! wait for each other's commit, so the versions of a keyspace are in the order of the commits. So
//! a snapshot that sees the row version with which a policy was read sees all rows of that policy
//! unchanged, and a snapshot that sees another version sees another policy. This needs no message,
//! and also holds on standbys.

use super::columns;
use super::tables::Table;
use pg::error::{Code, Error, Result};
use pg::scan::{ScanKey, Snapshot, Varlena};
use pg::spi::{self, Param};
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pg::tuple::Tuple;
use pg::{lookup, text};
use pgrx::pg_sys::Oid;

trigger_functions! {
    keysmith_policy_changed => policy_changed;
}

/// The trigger on the policy tables.
fn policy_changed(call: Option<&TriggerCall>) -> Result<Returned> {
    let trigger = call.ok_or_else(|| {
        Error::new(Code::InvalidArgument, "policy_changed can be called by triggers alone")
    })?;
    trigger.relation().invalidate();
    if let Some(keyspaces) = Keyspaces::beside(trigger)? {
        if trigger.is_for_row() {
            let rows = [trigger.old(), trigger.new_row()];
            let mut names: Vec<Vec<u8>> =
                rows.into_iter().flatten().filter_map(keyspace_of).collect();
            names.dedup();
            names.iter().try_for_each(|name| keyspaces.renew(name))?;
        } else {
            keyspaces.renew_all()?;
        }
    }
    // PostgreSQL ignores the result of an AFTER trigger.
    Ok(Returned::nothing())
}

/// The keyspace of a row of a policy table: the first column.
fn keyspace_of(row: Tuple) -> Option<Vec<u8>> {
    row.value(columns::keyspace::keyspace.number()).map(|name| name.bytes().to_vec())
}

/// The table of keyspaces. It is looked up by name, since the library may not be able to read the
/// tables while the extension is updated.
struct Keyspaces {
    table: Table,
    owner: Oid,
}

impl Keyspaces {
    /// The table of keyspaces; `None` if the trigger is on that table.
    fn beside(trigger: &TriggerCall) -> Result<Option<Keyspaces>> {
        let relation = trigger.relation();
        let (schema, owner) = relation.class(|class| (class.relnamespace, class.relowner));
        let found = |name| lookup::relation(schema, name);
        let (Some(table), Some(index)) = (found(c"keyspace"), found(c"keyspace_pkey")) else {
            return Err(Error::new(Code::Installation, "the extension's own keyspace is missing"));
        };
        Ok((relation.oid() != table).then_some(Keyspaces {
            table: Table { table, index, columns: &[], checked_at: 0 },
            owner,
        }))
    }

    /// Gives a keyspace's row a new version, unless this transaction has written the present one:
    /// other transactions see all of its changes at the same time.
    fn renew(&self, name: &[u8]) -> Result<()> {
        let snapshot = Snapshot::now();
        let is_another = {
            let keyspaces = self.table.open();
            let sought = Varlena::new(name);
            let mut scan =
                keyspaces.scan(&snapshot, [ScanKey::text(columns::keyspace::keyspace, &sought)]);
            scan.next().is_some_and(|row| !row.version().is_own())
        };
        if is_another { self.write(&snapshot, Some(&text::lossy(name))) } else { Ok(()) }
    }

    fn renew_all(&self) -> Result<()> {
        self.write(&Snapshot::now(), None)
    }

    /// Updates the rows of one or all keyspaces. Any UPDATE makes a new version, even if it changes
    /// no value. It runs under a new snapshot, since the transaction's snapshot may be older than
    /// the keyspace.
    fn write(&self, snapshot: &Snapshot, name: Option<&str>) -> Result<()> {
        pg::role::acting_as(self.owner, || {
            spi::change_now(
                snapshot,
                "UPDATE keysmith_private.keyspace SET created_at = created_at
                 WHERE keyspace = coalesce($1, keyspace)",
                &[Param::text_or_null(name)],
                |_| (),
            )
        })
    }
}
