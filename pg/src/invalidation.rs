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

/// Registers `then`, which is called when roles or memberships of roles may have changed. It must
/// not fail.
pub fn on_role(then: fn()) {
    // The owner of the database is a member of pg_database_owner.
    use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, DATABASEOID};
    call_for(&[AUTHMEMROLEMEM, AUTHOID, DATABASEOID], then);
}

/// Registers `then`, which is called when types or schemas may have changed. It must not fail.
pub fn on_type(then: fn()) {
    use pg_sys::SysCacheIdentifier::{NAMESPACEOID, TYPEOID};
    call_for(&[TYPEOID, NAMESPACEOID], then);
}

fn call_for(caches: &[pg_sys::SysCacheIdentifier::Type], then: fn()) {
    for cache in caches {
        // SAFETY: as above.
        unsafe {
            let then = Datum::from(then as usize);
            pg_sys::CacheRegisterSyscacheCallback(*cache as i32, Some(call_of_cache), then);
        }
    }
}

/// # Safety
/// The datum must be the one that was registered.
unsafe extern "C-unwind" fn call_of_cache(then: Datum, _cache: i32, _hash: u32) {
    // SAFETY: the datum is the address of a function of this type.
    let then: fn() = unsafe { std::mem::transmute(then.value()) };
    then();
}
