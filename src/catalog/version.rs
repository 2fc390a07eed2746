//! The version of a policy is the row of its keyspace.
//!
//! Whoever changes one of the other policy tables gives that row a new version, in the
//! same transaction. Writers of a row take turns until they commit, so the versions of a
//! keyspace follow each other as the commits do. So a snapshot that sees the version that
//! a policy was read under sees all rows of that policy as they were read, and a snapshot
//! that sees another version sees another policy. That needs no message from
//! anyone, and holds on standbys.

use super::columns;
use super::tables::Table;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::scan::{ScanKey, Snapshot, Varlena};
use pg::spi::{self, Param};
use pg::{text, varlena};
use pgrx::pg_sys::{self, Datum, TriggerData};

sql_functions! {
    keysmith_policy_changed => policy_changed;
}

/// The trigger on the policy tables.
fn policy_changed(call: &Call) -> Result<Option<Datum>> {
    // SAFETY: the frame is valid, and its context is null or a node, whose tag tells
    // whether it is a trigger's. The trigger manager fills the structure in.
    let trigger = unsafe {
        let node = (*call.frame()).context;
        let is_trigger = !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_TriggerData;
        is_trigger.then(|| &*node.cast::<TriggerData>())
    };
    let Some(trigger) = trigger else {
        return Err(Error::new(
            Code::InvalidArgument,
            "policy_changed can be called by triggers alone",
        ));
    };
    // SAFETY: the relation is open while its trigger runs.
    unsafe { pg_sys::CacheInvalidateRelcache(trigger.tg_relation) };
    let keyspaces = Keyspaces::beside(trigger)?;
    if let Some(keyspaces) = keyspaces {
        let is_of_rows = trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
        let rows = [trigger.tg_trigtuple, trigger.tg_newtuple];
        if is_of_rows {
            let mut names: Vec<Vec<u8>> =
                rows.into_iter().filter_map(|row| keyspace_of(trigger, row)).collect();
            names.dedup();
            names.iter().try_for_each(|name| keyspaces.renew(name))?;
        } else {
            keyspaces.renew_all()?;
        }
    }
    // What an AFTER trigger returns is ignored, but must not be null.
    Ok(Some(Datum::from(trigger.tg_trigtuple)))
}

/// The keyspace of a policy table's row, which is its first column.
fn keyspace_of(trigger: &TriggerData, row: pg_sys::HeapTuple) -> Option<Vec<u8>> {
    if row.is_null() {
        return None;
    }
    let mut is_null = false;
    // SAFETY: a row of the relation, whose first column is a text.
    unsafe {
        let description = (*trigger.tg_relation).rd_att;
        let column = i32::from(columns::keyspace::keyspace);
        let name = pg_sys::SPI_getbinval(row, description, column, &mut is_null);
        (!is_null).then(|| varlena::bytes(name).to_vec())
    }
}

/// The table of keyspaces. It is looked up by name: while the extension is updated, its
/// tables may not be those that the library reads.
struct Keyspaces {
    table: Table,
    owner: pg_sys::Oid,
}

impl Keyspaces {
    /// `None` if the trigger is on that table itself.
    fn beside(trigger: &TriggerData) -> Result<Option<Keyspaces>> {
        // SAFETY: the relation is open; a look-up by an unknown name gives InvalidOid.
        let (relation, owner, table, index) = unsafe {
            let form = &*(*trigger.tg_relation).rd_rel;
            let found =
                |name: &std::ffi::CStr| pg_sys::get_relname_relid(name.as_ptr(), form.relnamespace);
            (
                (*trigger.tg_relation).rd_id,
                form.relowner,
                found(c"keyspace"),
                found(c"keyspace_pkey"),
            )
        };
        if table == pg_sys::Oid::INVALID || index == pg_sys::Oid::INVALID {
            return Err(Error::new(Code::Installation, "the extension's own keyspace is missing"));
        }
        Ok((relation != table).then_some(Keyspaces {
            table: Table { table, index, columns: &[], checked_at: 0 },
            owner,
        }))
    }

    /// Gives a keyspace's row a new version, unless the transaction has written the one
    /// that is there: others see all that it does at once.
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

    /// Any update makes a new version, also one that changes nothing. It is of the rows
    /// as they are now: a transaction's own snapshot may be older than the keyspace.
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
