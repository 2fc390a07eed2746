//! A key's allowlist. A short one is read in its row. A long one lies outside of it:
//! it is fetched once a backend, sorted, and remembered by which stored value it is.
//! An allowlist that is altered is another value. When the table itself is altered or
//! emptied, all is forgotten, so what is remembered is never stale.

use crate::catalog::invalidation;
use keysmith_core::policy::allowlist::{Allowlist, Ranges};
use pg::varlena::{self, ArrayView, StoredAllowlist, StoredId, StoredValue};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The key is part of the name, lest the numbers of stored values, which are used
/// again after four billion of them, ever lead to another key's list.
type Name = (StoredId, [u8; 16]);

/// At most some 20 MB, where each is as long as can be.
const MOST_REMEMBERED: usize = 512;

#[derive(Default)]
struct Remembered {
    /// How many changes of our tables had been learned of.
    changes: u64,
    lists: HashMap<Name, Rc<Ranges>>,
}

thread_local! {
    static REMEMBERED: RefCell<Remembered> = RefCell::default();
}

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

/// The allowlist of a key, given as its row has it.
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
