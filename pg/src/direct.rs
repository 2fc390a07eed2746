//! PostgreSQL functions without pgrx's guard, which costs more than most of them do. Every decision
//! calls these.
//!
//! An error that one of them raises would jump over Rust frames. So functions that can raise an
//! error are called inside `guarded`, several at a time, with nothing inside that needs dropping.
//! The functions that raise no error are marked.

use pgrx::pg_sys::{
    BlockNumber, Buffer, Datum, ForkNumber, HeapTuple, LOCKMODE, LWLock, LWLockMode, Latch,
    LockRelId, MemoryContext, Oid, Relation, Snapshot, TimestampTz, TupleDesc, TupleTableSlot,
    Tuplestorestate,
};
use std::ffi::{c_int, c_void};

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

    pub fn tuplestore_gettupleslot(
        store: *mut Tuplestorestate,
        forward: bool,
        copy: bool,
        slot: *mut TupleTableSlot,
    ) -> bool;
    pub fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, columns: c_int);

    // These raise no error, unless memory is corrupt.
    pub fn GetUserId() -> Oid;
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

    // Raises no error for at most MaxAllocSize bytes with the flag MCXT_ALLOC_NO_OOM: it returns null.
    pub fn MemoryContextAllocExtended(
        context: MemoryContext,
        size: usize,
        flags: c_int,
    ) -> *mut c_void;
}

/// Runs `calls`, and turns a PostgreSQL error into a panic, as pgrx does.
///
/// # Safety
/// When an error is raised, nothing inside may need dropping. Nothing inside may panic: a panic
/// can't unwind through the C frame in between, and ends the server. So `calls` may only call
/// functions of this module, and none of pgrx, which raises errors as panics.
#[inline]
pub unsafe fn guarded<T>(calls: impl FnOnce() -> T) -> T {
    // SAFETY: backends have one thread; for the rest, as the caller promises.
    unsafe { pgrx::pg_sys::ffi::pg_guard_ffi_boundary(calls) }
}
