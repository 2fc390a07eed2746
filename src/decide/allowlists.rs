//! A key's allowlist. A short list is read in the row. PostgreSQL stores a long list out of line:
//! each backend fetches it once, sorts it, and caches it under the identity of the stored value. An
//! altered list is a new value. The cache is emptied when the table is altered or truncated, so a
//! cached list is never stale.

use crate::catalog::invalidation;
use keysmith_core::policy::allowlist::{Allowlist, Ranges};
use pg::varlena::{self, ArrayView, StoredAllowlist, StoredId, StoredValue};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The key is part of the cache key. PostgreSQL reuses the ids of stored values after four billion
/// of them, and without the key's id an entry could belong to another key.
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

/// A key's allowlist, in its row or from the cache.
pub enum KeysAllowlist<'a> {
    InRow(StoredAllowlist<'a>),
    Sorted(Rc<Ranges>),
}

impl Allowlist for KeysAllowlist<'_> {
    #[inline]
    fn admits(&self, address: IpAddr) -> bool {
        match self {
            KeysAllowlist::InRow(list) => list.admits(address),
            KeysAllowlist::Sorted(ranges) => ranges.admits(address),
        }
    }
}

/// The allowlist of a key, from the value in its row.
#[inline]
pub fn of_key(key_id: [u8; 16], list: StoredValue<'_>) -> KeysAllowlist<'_> {
    let view = || ArrayView::new(list.content());
    let Some(stored) = list.id() else { return KeysAllowlist::InRow(StoredAllowlist(view())) };
    let name = (stored, key_id);
    REMEMBERED.with_borrow_mut(|remembered| {
        let changes = invalidation::changes();
        if remembered.changes != changes {
            *remembered = Remembered { changes, lists: HashMap::new() };
        }
        if let Some(ranges) = remembered.lists.get(&name) {
            return KeysAllowlist::Sorted(ranges.clone());
        }
        let ranges = Rc::new(Ranges::new(varlena::networks(view())));
        if remembered.lists.len() >= MOST_REMEMBERED {
            remembered.lists.clear();
        }
        remembered.lists.insert(name, ranges.clone());
        KeysAllowlist::Sorted(ranges)
    })
}
