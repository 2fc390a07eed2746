//! PostgreSQL's own functions without pgrx's care for errors, which costs more than most
//! of them do: for what is called in every decision.
//!
//! An error that one of them raises would jump over Rust's frames. So those that can
//! raise one are called inside `guarded`, once for several of them, and nothing in there
//! needs dropping; the others are marked.

use pgrx::pg_sys::{
    BlockNumber, Buffer, Datum, ForkNumber, HeapTuple, LOCKMODE, LWLock, LWLockMode, Latch,
    LockRelId, Oid, Relation, Snapshot, TimestampTz, TupleDesc,
};

unsafe extern "C-unwind" {
    pub fn GetCatalogSnapshot(relation: Oid) -> Snapshot;
    pub fn RegisterSnapshot(snapshot: Snapshot) -> Snapshot;
    pub fn RelationIdGetRelation(relation: Oid) -> Relation;
    pub fn LockRelationOid(relation: Oid, mode: LOCKMODE);
    pub fn table_open(relation: Oid, mode: LOCKMODE) -> Relation;
    pub fn RelationGetNumberOfBlocksInFork(
        relation: Relation,
        fork: ForkNumber::Type,
    ) -> BlockNumber;
    pub fn heap_fetch(
        relation: Relation,
        snapshot: Snapshot,
        tuple: HeapTuple,
        buffer: *mut Buffer,
        keeps_buffer: bool,
    ) -> bool;

    // These raise none, unless memory is corrupt.
    pub fn RecoveryInProgress() -> bool;
    pub fn GetLatestXTime() -> TimestampTz;
    pub fn GetCurrentTimestamp() -> TimestampTz;
    pub fn SetLatch(latch: *mut Latch);
    pub fn UnregisterSnapshot(snapshot: Snapshot);
    pub fn RelationClose(relation: Relation);
    pub fn UnlockRelationId(relation: *mut LockRelId, mode: LOCKMODE);
    pub fn ReleaseBuffer(buffer: Buffer);
    pub fn heap_deform_tuple(
        tuple: HeapTuple,
        description: TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    );
    pub fn LWLockAcquire(lock: *mut LWLock, mode: LWLockMode::Type) -> bool;
    pub fn LWLockRelease(lock: *mut LWLock);
}

/// Turns an error that `calls` raise into a panic, as pgrx does.
///
/// # Safety
/// Nothing inside may need dropping when an error is raised, and nothing may panic: a
/// panic can't leave the frame of C in between, and ends the server. So all that is
/// called is of this module, and nothing of pgrx's own, whose errors are panics.
#[inline]
pub unsafe fn guarded<T>(calls: impl FnOnce() -> T) -> T {
    // SAFETY: backends have one thread; for the rest, as the caller promises.
    unsafe { pgrx::pg_sys::ffi::pg_guard_ffi_boundary(calls) }
}
