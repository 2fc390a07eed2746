//! Locks on objects. A transaction keeps them until it ends.

use crate::server::is_attached;
use crate::{server, transaction};
use pgrx::pg_sys::{self, LOCKMODE, LOCKTAG, LockAcquireResult, LockTagType, Oid};

/// How an object is locked, as PostgreSQL numbers it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Mode {
    AccessShare = pg_sys::AccessShareLock as LOCKMODE,
    RowExclusive = pg_sys::RowExclusiveLock as LOCKMODE,
    Exclusive = pg_sys::ExclusiveLock as LOCKMODE,
}

/// The catalog of extensions, as the class of their locks.
pub const EXTENSIONS: Oid = pg_sys::ExtensionRelationId;

/// Locks an object of the database: the class is the catalog that it is in, or any other table.
/// Waits for others that have it.
pub fn object(class: Oid, object: Oid, mode: Mode) {
    transaction::must_be_in_progress();
    // SAFETY: inside a transaction, which releases it. The numbers need not be those of anything.
    unsafe { pg_sys::LockDatabaseObject(class, object, 0, mode as LOCKMODE) };
}

/// The same without waiting. False if others have it.
pub fn try_object(class: Oid, object: Oid, mode: Mode) -> bool {
    transaction::must_be_in_progress();
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockDatabaseObject(class, object, 0, mode as LOCKMODE) }
}

/// Whether somebody drops, renames or copies the database of this session, which takes a lock
/// that excludes those who connect, and waits a few seconds for all others to go.
pub fn my_database_is_wanted() -> bool {
    if !is_attached() {
        return false;
    }
    let tag = LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: server::my_database().to_u32(),
        locktag_field4: 0,
        locktag_type: LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mode = Mode::RowExclusive as LOCKMODE;
    // SAFETY: the lock of a session, which needs no transaction; given back at once.
    unsafe {
        let taken = pg_sys::LockAcquire(&tag, mode, true, true);
        if taken == LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, true);
    }
    false
}
