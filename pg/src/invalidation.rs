//! Invalidation messages: how a session learns that what it has cached is out of date.

use pgrx::pg_sys::{self, Datum, Oid};

/// Processes the invalidation messages that have arrived so far.
#[inline]
pub fn accept() {
    // SAFETY: inside a transaction. No caller holds a pointer to a cache entry that an invalidation
    // may free.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Registers `then` for relcache invalidations. It is called with the OID of a relation, or with
/// `InvalidOid` for all relations. It must not fail.
pub fn on_relation(then: fn(Oid)) {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(call), Datum::from(then as usize)) };
}

/// # Safety
/// The datum must be the one that was registered.
unsafe extern "C-unwind" fn call(then: Datum, relation: Oid) {
    // SAFETY: the datum is the address of a function of this type.
    let then: fn(Oid) = unsafe { std::mem::transmute(then.value()) };
    then(relation);
}
