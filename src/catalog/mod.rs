//! The only door to our tables for decisions: where they are, how a row is found
//! without SPI, and each keyspace's policy, kept until it changes.

pub mod columns;
pub mod directory;
pub mod invalidation;
pub mod policy;
pub mod scan;
pub mod tables;

use crate::error::Result;
use policy::Policy;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
pub use tables::{PRIVATE, Tables};

/// What this backend remembers of the catalog.
struct Remembered {
    tables: Rc<Tables>,
    /// Names of keyspaces are short: to compare a few takes less than to hash one.
    policies: BTreeMap<Box<[u8]>, Rc<Policy>>,
}

thread_local! {
    static REMEMBERED: RefCell<Option<Remembered>> = const { RefCell::new(None) };
}

/// The door, opened for one statement's work.
pub struct Catalog {
    pub tables: Rc<Tables>,
}

impl Catalog {
    /// Takes note of all changes that were committed before now. The snapshot for
    /// reading must be taken afterwards, or the policy could be older than the rows.
    #[inline]
    pub fn open() -> Result<Catalog> {
        if invalidation::absorb() {
            REMEMBERED.with(|remembered| remembered.take());
        }
        if let Some(tables) = REMEMBERED
            .with(|remembered| remembered.borrow().as_ref().map(|known| known.tables.clone()))
        {
            return Ok(Catalog { tables });
        }
        let tables = Rc::new(Tables::resolve()?);
        invalidation::watch(&tables);
        REMEMBERED.with(|remembered| {
            remembered
                .replace(Some(Remembered { tables: tables.clone(), policies: BTreeMap::new() }))
        });
        Ok(Catalog { tables })
    }

    /// The policy of a keyspace as of now; that of a new one if there is no such.
    pub fn policy(&self, keyspace: &[u8]) -> Result<Rc<Policy>> {
        let known = REMEMBERED.with(|remembered| {
            remembered.borrow().as_ref().and_then(|known| known.policies.get(keyspace).cloned())
        });
        if let Some(policy) = known {
            return Ok(policy);
        }
        let policy = Rc::new(Policy::load(&self.tables, keyspace)?);
        // Names that nobody made are not remembered: callers could send any number.
        if policy.exists {
            REMEMBERED.with(|remembered| {
                if let Some(known) = remembered.borrow_mut().as_mut() {
                    known.policies.insert(keyspace.into(), policy.clone());
                }
            });
        }
        Ok(policy)
    }
}
