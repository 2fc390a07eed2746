//! The moment at which tables are read.
//!
//! A transaction at REPEATABLE READ sees the database as it was when it began, and
//! so would every query it runs. Decisions must not: a key revoked since then is
//! refused. So each takes the snapshot that PostgreSQL takes for its own catalogs.
//! That snapshot is new at every call, whatever the isolation level, takes no
//! transaction id, and works on standbys and in parallel mode.

use crate::{direct, major};
use pgrx::pg_sys;

/// What the tables hold now; the same for all scans under it.
pub struct Snapshot {
    registered: pg_sys::Snapshot,
    ended_before: u64,
}

impl Snapshot {
    #[inline]
    pub fn now() -> Snapshot {
        let ended_before = transactions_ended();
        // SAFETY: for a table without a syscache, and so for none, the snapshot is a new
        // one. It is registered, since an invalidation may free an unregistered one.
        let registered = unsafe {
            direct::guarded(|| {
                direct::RegisterSnapshot(direct::GetCatalogSnapshot(pg_sys::Oid::INVALID))
            })
        };
        Snapshot { registered, ended_before }
    }

    /// For PostgreSQL, for as long as this lives.
    pub fn registered(&self) -> pg_sys::Snapshot {
        self.registered
    }

    /// The count of ended transactions that was read before the snapshot was taken.
    /// While it is the count still, the snapshot sees all that was committed.
    #[inline]
    pub fn ended_before(&self) -> u64 {
        self.ended_before
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered in `now`, once. After an error the abort does it.
            unsafe { direct::UnregisterSnapshot(self.registered) };
        }
    }
}

/// Lets go of the snapshot by which catalogs were read last. It would hold up who removes rows, and
/// on a standby replay, until the transaction ends.
pub fn let_go_of_catalog_snapshot() {
    // SAFETY: who still uses it has registered it.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}

/// How many transactions of this server have ended that could have changed anything.
/// It is counted before a commit returns, and on standbys as commits are replayed.
#[inline]
pub fn transactions_ended() -> u64 {
    // SAFETY: in shared memory for as long as the server runs. Only one that has just
    // been counted up could be missed, whose commit has not returned yet.
    unsafe { major::completed_transactions() }
}
