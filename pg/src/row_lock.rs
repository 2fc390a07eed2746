//! Rows that only one transaction at a time may change, and how long another waits for its
//! turn. PostgreSQL lets it wait without end, or not at all.

use crate::clock::monotonic;
use crate::latch;
use crate::row::Row;
use crate::scan::Relation;
use crate::settings::set_for_now;
use crate::transaction::in_subtransaction;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid, TransactionId};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;

/// A transaction that has changed or locked a row, and has not ended.
pub struct LockHolder(TransactionId);

/// The moment until which is waited.
#[derive(Clone, Copy)]
pub struct Deadline(i64);

/// How a wait ends.
enum Wait {
    Over,
    TooLong,
    Failed(Box<CaughtError>),
}

impl LockHolder {
    /// Another transaction, if it has not ended.
    pub fn of(transaction: TransactionId) -> Option<LockHolder> {
        is_others(transaction).then_some(LockHolder(transaction))
    }

    /// The transaction itself, if this is one of its savepoints.
    pub fn topmost(&self) -> TransactionId {
        // SAFETY: looks into shared memory. One that has ended has no parent there.
        unsafe { pg_sys::SubTransGetTopmostTransaction(self.0) }
    }
}

impl Deadline {
    /// In so many milliseconds.
    pub fn after(milliseconds: i32) -> Deadline {
        Deadline(monotonic().saturating_add(i64::from(milliseconds) * 1000))
    }

    /// Waits for a holder to end. False if the moment comes before, or if the holder waits
    /// for this transaction.
    pub fn wait_for(self, holder: &LockHolder) -> bool {
        let mut awaited = holder.0;
        while self.left() > 0 {
            match wait(awaited, self.left()) {
                Wait::Over => {}
                Wait::TooLong => return false,
                Wait::Failed(error) => error.rethrow(),
            }
            // SAFETY: looks into shared memory.
            unsafe {
                if !pg_sys::TransactionIdIsInProgress(awaited) {
                    return true;
                }
                // A savepoint was released: what it held is its transaction's now.
                awaited = pg_sys::SubTransGetTopmostTransaction(awaited);
            }
            latch::wait(1);
            pgrx::check_for_interrupts!();
        }
        false
    }

    /// Locks a relation, until the transaction ends, against nothing but what no reader of it
    /// may meet. False if the moment comes before.
    pub fn lock_as_readers_do(self, relation: Oid) -> bool {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: any OID can be locked.
        while !unsafe { pg_sys::ConditionalLockRelationOid(relation, mode) } {
            if self.left() == 0 {
                return false;
            }
            latch::rest();
        }
        true
    }

    /// In milliseconds.
    fn left(self) -> i64 {
        (self.0 - monotonic()).saturating_add(999).div_euclid(1000).max(0)
    }
}

/// Waits for the end of a transaction, for so many milliseconds at most. PostgreSQL ends such
/// a wait with an error, so it is made in a subtransaction.
fn wait(transaction: TransactionId, most: i64) -> Wait {
    // SAFETY: reads a setting, which the caller's session may have made shorter.
    let own = i64::from(unsafe { pg_sys::LockTimeout });
    let most = if own > 0 { own.min(most) } else { most };
    let timeout = CString::new(most.to_string()).unwrap_or_default();
    let attempt = AssertUnwindSafe(|| {
        set_for_now(c"lock_timeout", &timeout);
        let tag = pg_sys::LOCKTAG {
            locktag_field1: transaction.into_inner(),
            locktag_type: pg_sys::LockTagType::LOCKTAG_TRANSACTION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
            ..Default::default()
        };
        let mode = pg_sys::ShareLock as pg_sys::LOCKMODE;
        // SAFETY: a transaction holds its lock until it ends. This one is released at once.
        // The wait may raise an error.
        unsafe {
            pg_sys::LockAcquire(&tag, mode, false, false);
            pg_sys::LockRelease(&tag, mode, false);
        }
        Wait::Over
    });
    in_subtransaction(
        || {
            pgrx::PgTryBuilder::new(attempt)
                .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| Wait::TooLong)
                .catch_when(PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED, |_| Wait::TooLong)
                .catch_others(|error| Wait::Failed(Box::new(error)))
                .execute()
        },
        |wait| matches!(wait, Wait::Over),
    )
}

impl Row<'_> {
    /// Another transaction that holds the row now, so that it can't be changed.
    pub fn holder(&self) -> Option<LockHolder> {
        const KINDS: u32 = pg_sys::HEAP_XMAX_EXCL_LOCK | pg_sys::HEAP_XMAX_KEYSHR_LOCK;
        // SAFETY: the header lies in the page that the row is pinned in; others may only set
        // hints in it, which this does not depend on.
        let (mask, held_by) = unsafe {
            let header = &*self.header();
            (u32::from(header.t_infomask), header.t_choice.t_heap.t_xmax)
        };
        let only_locks = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
        if mask & pg_sys::HEAP_XMAX_INVALID != 0 {
            None
        } else if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            members(held_by, only_locks)
        } else if only_locks && mask & KINDS == pg_sys::HEAP_XMAX_KEYSHR_LOCK {
            // A lock on the key alone does not stop an update that changes no key.
            None
        } else {
            is_others(held_by).then_some(LockHolder(held_by))
        }
    }

    /// Locks the row until the transaction ends, as an update does that changes no key,
    /// without waiting for anyone. False if another was faster.
    pub fn lock(&self, relation: &Relation) -> bool {
        let mut tuple = self.tuple();
        let mut buffer = 0;
        // SAFETY: the relation is open; a tuple's place is all that is needed of it. The page
        // is released at once.
        let outcome = unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let outcome = pg_sys::heap_lock_tuple(
                relation.for_changes(),
                &mut tuple,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                false,
                &mut buffer,
                &mut failure,
            );
            pg_sys::ReleaseBuffer(buffer);
            outcome
        };
        outcome == pg_sys::TM_Result::TM_Ok
    }
}

/// One of several holders of a row.
fn members(several: pg_sys::MultiXactId, only_locks: bool) -> Option<LockHolder> {
    const KEY_SHARE: pg_sys::MultiXactStatus::Type =
        pg_sys::MultiXactStatus::MultiXactStatusForKeyShare;
    let mut members = std::ptr::null_mut();
    // SAFETY: PostgreSQL keeps what a row refers to. The list is palloc'ed, and has as many
    // members as the count says.
    unsafe {
        let count = pg_sys::GetMultiXactIdMembers(several, &mut members, false, only_locks);
        let count = usize::try_from(count).unwrap_or_default();
        if count == 0 {
            return None;
        }
        let others = std::slice::from_raw_parts(members, count)
            .iter()
            .find(|member| member.status != KEY_SHARE && is_others(member.xid))
            .map(|member| LockHolder(member.xid));
        pg_sys::pfree(members.cast());
        others
    }
}

/// Whether another transaction is that one, and has not ended.
fn is_others(transaction: TransactionId) -> bool {
    // SAFETY: looks at the transaction's state, and into shared memory.
    unsafe {
        transaction != pg_sys::InvalidTransactionId
            && !pg_sys::TransactionIdIsCurrentTransactionId(transaction)
            && pg_sys::TransactionIdIsInProgress(transaction)
    }
}
