//! Subscriptions of this database, by which it receives the rows of other databases.

use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Datum, Oid};

const RELATIONS: i32 = pg_sys::SysCacheIdentifier::SUBSCRIPTIONRELMAP as i32;
const SUBSCRIPTIONS: i32 = pg_sys::SysCacheIdentifier::SUBSCRIPTIONOID as i32;

/// Whether a subscription of this database has the table, whatever the state of the subscription.
pub fn has(table: Oid) -> bool {
    const KEYS: i32 = 1;
    must_be_in_progress();
    // SAFETY: a catalog look-up by the first of the cache's keys. It returns a list, which is
    // released once.
    unsafe {
        let none = Datum::null();
        let list = pg_sys::SearchSysCacheList(RELATIONS, KEYS, Datum::from(table), none, none);
        let has_some = (*list).n_members > 0;
        pg_sys::ReleaseCatCacheList(list);
        has_some
    }
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
