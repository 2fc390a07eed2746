//! The allowlists of a key and of its tenant. A short list is read in the row. PostgreSQL stores a
//! long list out of line: each backend fetches it once, sorts it, and caches it under the identity of
//! the stored value. An altered list is a new value. The cache is emptied when the table is altered
//! or truncated, so a cached list is never stale.

use crate::catalog::invalidation;
use keysmith_core::policy::allowlist::{Allowlist, Allowlists, IpNet, Ranges};
use pg::varlena::{self, ArrayView, StoredAllowlist, StoredId, StoredValue};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The id of the holder is part of the cache key. PostgreSQL reuses the ids of stored values after
/// four billion of them, and without the holder's id an entry could belong to another one.
type Name = (StoredId, [u8; 16]);

/// These take at most about 20 MB, if each list has the greatest allowed length.
const MOST_REMEMBERED: usize = 512;

#[derive(Default)]
struct Remembered {
    /// The value of `invalidation::changes` for which the lists are valid.
    changes: u64,
    lists: HashMap<Name, Rc<Ranges>>,
}

thread_local! {
    static REMEMBERED: RefCell<Remembered> = RefCell::default();
}

/// An allowlist in a row, or from the cache.
pub enum RowsAllowlist<'a> {
    InRow(StoredAllowlist<'a>),
    Sorted(Rc<Ranges>),
}

impl Allowlist for RowsAllowlist<'_> {
    #[inline]
    fn admits(&self, address: IpAddr) -> bool {
        match self {
            RowsAllowlist::InRow(list) => list.admits(address),
            RowsAllowlist::Sorted(ranges) => ranges.admits(address),
        }
    }
}

/// The allowlists that hold for a key.
pub struct KeysAllowlists<'a> {
    pub own: Option<RowsAllowlist<'a>>,
    pub tenants: Option<RowsAllowlist<'a>>,
    pub keyspaces: Option<&'a Ranges>,
    pub tokens: Option<&'a [IpNet]>,
}

impl Allowlists for KeysAllowlists<'_> {
    fn all(&self) -> [Option<&dyn Allowlist>; 4] {
        [
            self.own.as_ref().map(|list| list as &dyn Allowlist),
            self.tenants.as_ref().map(|list| list as &dyn Allowlist),
            self.keyspaces.map(|list| list as &dyn Allowlist),
            self.tokens.as_ref().map(|list| list as &dyn Allowlist),
        ]
    }
}

/// The allowlist of a key or tenant, from the value in its row.
#[inline]
pub fn of_row(holder: [u8; 16], list: StoredValue<'_>) -> RowsAllowlist<'_> {
    let view = || ArrayView::new(list.content());
    let Some(stored) = list.id() else { return RowsAllowlist::InRow(StoredAllowlist(view())) };
    let name = (stored, holder);
    REMEMBERED.with_borrow_mut(|remembered| {
        let changes = invalidation::changes();
        if remembered.changes != changes {
            *remembered = Remembered { changes, lists: HashMap::new() };
        }
        if let Some(ranges) = remembered.lists.get(&name) {
            return RowsAllowlist::Sorted(ranges.clone());
        }
        let ranges = Rc::new(Ranges::new(varlena::networks(view())));
        if remembered.lists.len() >= MOST_REMEMBERED {
            remembered.lists.clear();
        }
        remembered.lists.insert(name, ranges.clone());
        RowsAllowlist::Sorted(ranges)
    })
}
