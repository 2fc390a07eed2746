//! Subscriptions of this database, by which it receives the rows of other databases.

use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Datum, Oid};

const RELATIONS: i32 = pg_sys::SysCacheIdentifier::SUBSCRIPTIONRELMAP as i32;
const SUBSCRIPTIONS: i32 = pg_sys::SysCacheIdentifier::SUBSCRIPTIONOID as i32;

/// The column srsubstate of pg_subscription_rel, and its value once the table is synchronized.
const STATE: i16 = 3;
const READY: u8 = b'r';

/// A subscription that has a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subscribed {
    pub subscription: Oid,
    /// Whether the table's first copy has ended, so that all changes come in the order of their
    /// commits.
    pub is_ready: bool,
}

/// The subscriptions of this database that have the table, whatever their state.
pub fn of(table: Oid) -> Vec<Subscribed> {
    const KEYS: i32 = 1;
    must_be_in_progress();
    // SAFETY: a catalog look-up by the first of the cache's keys. It returns a list of tuples of
    // pg_subscription_rel, whose columns are not null. The list is released once.
    unsafe {
        let none = Datum::null();
        let list = pg_sys::SearchSysCacheList(RELATIONS, KEYS, Datum::from(table), none, none);
        let count = usize::try_from((*list).n_members).unwrap_or_default();
        let found = (*list).members.as_slice(count).iter().map(|member| {
            let tuple = &raw mut (**member).tuple;
            let value = |column: i16| {
                let mut is_null = false;
                pg_sys::SysCacheGetAttr(RELATIONS, tuple, column, &mut is_null)
            };
            Subscribed {
                subscription: Oid::from(value(1).value() as u32),
                is_ready: value(STATE).value() as u8 == READY,
            }
        });
        let found = found.collect();
        pg_sys::ReleaseCatCacheList(list);
        found
    }
}

/// Whether a subscription of this database has the table, whatever the state of the subscription.
pub fn has(table: Oid) -> bool {
    !of(table).is_empty()
}

/// Registers `then`, which is called when subscriptions may have been made, altered or dropped, or
/// may have other tables. It must not fail.
pub fn on_change(then: fn()) {
    for cache in [RELATIONS, SUBSCRIPTIONS] {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(call), Datum::from(then as usize))
        };
    }
}

/// # Safety
/// The datum must be the one that was registered.
unsafe extern "C-unwind" fn call(then: Datum, _cache: i32, _hash: u32) {
    // SAFETY: the datum is the address of a function of this type.
    let then: fn() = unsafe { std::mem::transmute(then.value()) };
    then();
}
