//! Logical replication slots: who receives the changes of a database.

use crate::column::{self, Column};
use crate::scan::{Relation, Snapshot};
use crate::{attempt, server};
use pgrx::pg_sys::{self, Oid};

/// The databases that have logical replication slots. For background workers outside of a
/// transaction, even those without a database.
pub fn databases() -> Vec<Oid> {
    // SAFETY: reads settings of the server.
    if unsafe { pg_sys::wal_level < pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32 } {
        return Vec::new();
    }
    let all = attempt::transaction("keysmith: looking for replication slots", || {
        const OID: Column<column::Oid> = Column::new(1);
        let snapshot = Snapshot::now();
        let databases =
            Relation::open(pg_sys::DatabaseRelationId, pg_sys::DatabaseOidIndexId.into());
        let mut all = Vec::new();
        let mut rows = databases.scan_all(&snapshot);
        while let Some(row) = rows.next() {
            all.extend(row.oid(OID));
        }
        Ok(all)
    });
    all.unwrap_or_default().into_iter().filter(|database| exists_for(*database)).collect()
}

/// Whether a database has a logical replication slot.
pub fn exists_for(database: Oid) -> bool {
    let (mut all, mut active) = (0, 0);
    // SAFETY: the process is attached to the shared memory that the function reads. It writes two
    // numbers.
    server::is_attached()
        && unsafe { pg_sys::ReplicationSlotsCountDBSlots(database, &mut all, &mut active) }
}
