//! Locks on database objects, held until the transaction ends.

use crate::server::is_attached;
use crate::{server, transaction};
use pgrx::pg_sys::{self, LOCKMODE, LOCKTAG, LockAcquireResult, LockTagType, Oid};

/// The lock modes that are used here, with PostgreSQL's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Mode {
    AccessShare = pg_sys::AccessShareLock as LOCKMODE,
    RowExclusive = pg_sys::RowExclusiveLock as LOCKMODE,
    Exclusive = pg_sys::ExclusiveLock as LOCKMODE,
}

/// The catalog pg_extension, which is the class of locks on extensions.
pub const EXTENSIONS: Oid = pg_sys::ExtensionRelationId;

/// Locks an object of the database. `class` is the OID of its catalog, or of any other table. Waits
/// while other transactions hold conflicting locks.
pub fn object(class: Oid, object: Oid, mode: Mode) {
    transaction::must_be_in_progress();
    // SAFETY: inside a transaction, whose end releases the lock. Any OIDs can be locked, even if no
    // such object exists.
    unsafe { pg_sys::LockDatabaseObject(class, object, 0, mode as LOCKMODE) };
}

/// Locks an object without waiting. False if another transaction holds a conflicting lock.
pub fn try_object(class: Oid, object: Oid, mode: Mode) -> bool {
    transaction::must_be_in_progress();
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockDatabaseObject(class, object, 0, mode as LOCKMODE) }
}

/// Whether another session drops, renames or copies the database of this session. Such a command
/// holds a lock that keeps new sessions from connecting, and waits a few seconds for all others to
/// leave.
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
    // SAFETY: a session lock needs no transaction. It is released right away.
    unsafe {
        let taken = pg_sys::LockAcquire(&tag, mode, true, true);
        if taken == LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            return true;
        }
        pg_sys::LockRelease(&tag, mode, true);
    }
    false
}
