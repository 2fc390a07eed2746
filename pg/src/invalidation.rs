//! Invalidations: how a session learns what others have committed.

use pgrx::pg_sys::{self, Datum, Oid};

/// Receives what other sessions have committed by now.
#[inline]
pub fn accept() {
    // SAFETY: inside a transaction, with nothing held that could go away.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Has `then` called for each relation whose cached description is no longer good, or with
/// `InvalidOid` for all. It is called at moments at which nothing may fail.
pub fn on_relation(then: fn(Oid)) {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(call), Datum::from(then as usize)) };
}

/// # Safety
/// Called by PostgreSQL with what was registered.
unsafe extern "C-unwind" fn call(then: Datum, relation: Oid) {
    // SAFETY: the number is that of a function of this type.
    let then: fn(Oid) = unsafe { std::mem::transmute(then.value()) };
    then(relation);
}
