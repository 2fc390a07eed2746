//! The access of decisions to our tables: their OIDs, finding rows without SPI, and the policy of
//! each keyspace, cached until it changes.

pub mod access;
pub mod columns;
pub mod directory;
pub mod invalidation;
pub mod policy;
mod roles;
pub mod subscription;
pub mod tables;
mod version;

use pg::error::Result;
use pg::lookup;
use pg::role::acting_as;
use pg::snapshot::Snapshot;
use pgrx::pg_sys::Oid;
use policy::Policy;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
pub use tables::{PRIVATE, Tables};

/// The cache of this backend.
struct Remembered {
    /// The value of `invalidation::changes` before all of this was read.
    changes: u64,
    tables: Rc<Tables>,
    /// Names of keyspaces are short: comparing a few of them takes less time than hashing one.
    policies: BTreeMap<Box<[u8]>, Rc<Policy>>,
}

thread_local! {
    static REMEMBERED: RefCell<Option<Remembered>> = const { RefCell::new(None) };
}

/// Our tables, for the work of one statement.
pub struct Catalog {
    pub tables: Rc<Tables>,
    /// The value of `invalidation::changes` when it was opened.
    pub changes: u64,
}

impl Catalog {
    /// Processes the invalidation messages that have arrived by now.
    #[inline]
    pub fn open() -> Result<Catalog> {
        let changes = invalidation::absorb();
        let known = REMEMBERED.with_borrow(|remembered| {
            let known = remembered.as_ref().filter(|known| known.changes == changes);
            known.map(|known| known.tables.clone())
        });
        if let Some(tables) = known {
            return Ok(Catalog { tables, changes });
        }
        let tables = Rc::new(Tables::resolve(changes)?);
        REMEMBERED.set(Some(Remembered {
            changes,
            tables: tables.clone(),
            policies: BTreeMap::new(),
        }));
        Ok(Catalog { tables, changes })
    }

    /// The extension's owner, who owns its tables.
    pub fn owner(&self) -> Oid {
        lookup::owner_of_relation(self.tables.key.table)
    }

    /// Runs statements as the extension's owner, not as the caller.
    pub fn as_owner<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        acting_as(self.owner(), body)
    }

    /// The cached policy of a keyspace, if there is one. It may be older than the last commit.
    #[inline]
    pub fn remembered(&self, keyspace: &[u8]) -> Option<Rc<Policy>> {
        REMEMBERED.with_borrow(|remembered| {
            remembered.as_ref().and_then(|known| known.policies.get(keyspace).cloned())
        })
    }

    /// The policy of a keyspace exactly as a snapshot sees it; the default policy if there is no
    /// such keyspace.
    pub fn policy_under(&self, snapshot: &Snapshot, keyspace: &[u8]) -> Result<Rc<Policy>> {
        match self.remembered(keyspace) {
            Some(policy) if self.is_seen(&policy, snapshot, keyspace) => Ok(policy),
            _ => self.read_policy(snapshot, keyspace),
        }
    }

    /// The policy of a keyspace as of now.
    pub fn policy(&self, keyspace: &[u8]) -> Result<Rc<Policy>> {
        self.policy_under(&Snapshot::now(), keyspace)
    }

    /// Whether a snapshot sees exactly this policy.
    #[inline]
    pub fn is_seen(&self, policy: &Policy, snapshot: &Snapshot, keyspace: &[u8]) -> bool {
        policy.is_seen(self.tables.keyspace, snapshot, keyspace)
    }

    /// Reads a policy under a snapshot, and caches it.
    pub fn read_policy(&self, snapshot: &Snapshot, keyspace: &[u8]) -> Result<Rc<Policy>> {
        let policy = Rc::new(Policy::load(&self.tables, snapshot, keyspace)?);
        // Only existing keyspaces are cached: callers could send any number of other names.
        if policy.exists() {
            REMEMBERED.with_borrow_mut(|remembered| {
                if let Some(known) = remembered.as_mut() {
                    known.policies.insert(keyspace.into(), policy.clone());
                }
            });
        }
        Ok(policy)
    }
}
