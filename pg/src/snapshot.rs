//! Snapshots of what is committed now.
//!
//! At REPEATABLE READ, all queries of a transaction see the database as it was when the transaction
//! began. Decisions must not: a key that was revoked since then is refused. So each decision takes
//! a catalog snapshot, as PostgreSQL does to read its own catalogs. Such a snapshot is new at each
//! call at any isolation level, takes no transaction id, and works on standbys and in parallel
//! mode.

use crate::{direct, major};
use pgrx::pg_sys;

/// A registered snapshot of what is committed now.
pub struct Snapshot {
    registered: pg_sys::Snapshot,
    ended_before: u64,
}

impl Snapshot {
    /// Takes and registers a new snapshot.
    #[inline]
    pub fn now() -> Snapshot {
        let ended_before = transactions_ended();
        // SAFETY: for a relation without a syscache, and so for InvalidOid, GetCatalogSnapshot
        // takes a new snapshot. It is registered, since an invalidation may free an unregistered
        // one.
        let registered = unsafe {
            direct::guarded(|| {
                direct::RegisterSnapshot(direct::GetCatalogSnapshot(pg_sys::Oid::INVALID))
            })
        };
        Snapshot { registered, ended_before }
    }

    /// PostgreSQL's snapshot, which is valid as long as this lives.
    pub fn registered(&self) -> pg_sys::Snapshot {
        self.registered
    }

    /// `transactions_ended` as it was before the snapshot was taken. As long as the count is the
    /// same, the snapshot sees everything that is committed.
    #[inline]
    pub fn ended_before(&self) -> u64 {
        self.ended_before
    }

    /// Its text as a pg_snapshot. On a standby it has all transactions below `xmax` as decided:
    /// PostgreSQL does not tell there which of those that are listed are subtransactions.
    pub fn text(&self) -> String {
        // SAFETY: the snapshot is registered, and its array is as long as it says.
        let (xmin, xmax, mut listed) = unsafe {
            let snapshot = &*self.registered;
            let xmax = full_id(snapshot.xmax);
            if snapshot.takenDuringRecovery {
                return format!("{xmax}:{xmax}:");
            }
            let listed = (0..snapshot.xcnt as usize).map(|n| full_id(*snapshot.xip.add(n)));
            (full_id(snapshot.xmin), xmax, listed.collect::<Vec<u64>>())
        };
        listed.retain(|xid| (xmin..xmax).contains(xid));
        listed.sort_unstable();
        listed.dedup();
        let listed: Vec<String> = listed.iter().map(u64::to_string).collect();
        format!("{xmin}:{xmax}:{}", listed.join(","))
    }
}

/// The full id of a transaction that is not older than half of all ids.
fn full_id(xid: pg_sys::TransactionId) -> u64 {
    // SAFETY: reads a counter in shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let xid = xid.into_inner();
    let full = next & !u64::from(u32::MAX) | u64::from(xid);
    if full > next { full.saturating_sub(1 << 32) } else { full }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered in `now`, once. After an error the abort does it.
            unsafe { direct::UnregisterSnapshot(self.registered) };
        }
    }
}

/// Releases the catalog snapshot that was taken last. Otherwise it would hold back VACUUM, and
/// replay on a standby, until the transaction ends.
pub fn let_go_of_catalog_snapshot() {
    // SAFETY: code that still uses the snapshot has registered it.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}

/// How many transactions of this server that may have changed something have ended. The count goes
/// up before a commit returns, and on standbys when a commit is replayed.
#[inline]
pub fn transactions_ended() -> u64 {
    // SAFETY: the count is in shared memory as long as the server runs. The read takes no lock: it
    // may miss only an increment that was made just now, for a commit that has not returned yet.
    unsafe { major::completed_transactions() }
}
