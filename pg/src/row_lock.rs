//! Row locks, and waiting for them with a time limit. PostgreSQL's row locks wait without a limit,
//! or not at all.

use crate::clock::monotonic;
use crate::latch;
use crate::row::Row;
use crate::scan::Relation;
use crate::settings::set_for_now;
use crate::transaction::in_subtransaction;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid, TransactionId};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;

/// A transaction that has changed or locked a row, and has not ended.
pub struct LockHolder(TransactionId);

/// The moment at which waiting ends.
#[derive(Clone, Copy)]
pub struct Deadline(i64);

impl LockHolder {
    /// The transaction, if it is another one that has not ended.
    pub fn of(transaction: TransactionId) -> Option<LockHolder> {
        is_others(transaction).then_some(LockHolder(transaction))
    }

    /// The top-level transaction, if the holder is a subtransaction.
    pub fn topmost(&self) -> TransactionId {
        // SAFETY: looks up parents in pg_subtrans, where a transaction that has ended has no
        // parent.
        unsafe { pg_sys::SubTransGetTopmostTransaction(self.0) }
    }
}

impl Deadline {
    /// The moment in this many milliseconds.
    pub fn after(milliseconds: i32) -> Deadline {
        Deadline(monotonic().saturating_add(i64::from(milliseconds) * 1000))
    }

    /// Waits for a holder to end. False if the deadline passes first, or if the holder waits for
    /// this transaction.
    pub fn wait_for(self, holder: &LockHolder) -> bool {
        let mut awaited = holder.0;
        while self.left() > 0 {
            if !has_ended(awaited, self.left()) {
                return false;
            }
            // SAFETY: reads shared memory.
            unsafe {
                if !pg_sys::TransactionIdIsInProgress(awaited) {
                    return true;
                }
                // The subtransaction has committed, and its locks belong to its top-level
                // transaction now.
                awaited = pg_sys::SubTransGetTopmostTransaction(awaited);
            }
            latch::wait(1);
            pgrx::check_for_interrupts!();
        }
        false
    }

    /// Takes an ACCESS SHARE lock on a relation until the transaction ends. False if the deadline
    /// passes first.
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

    /// The time that is left, in milliseconds.
    fn left(self) -> i64 {
        (self.0 - monotonic()).saturating_add(999).div_euclid(1000).max(0)
    }
}

/// Waits for the end of a transaction, at most for this many milliseconds. False if that is too
/// short, or if it waits for this transaction. PostgreSQL ends such a wait with an error, so it runs
/// in a subtransaction.
fn has_ended(transaction: TransactionId, most: i64) -> bool {
    // SAFETY: reads lock_timeout, which the session may have set lower.
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
        // SAFETY: every transaction locks its own id until it ends. Our lock on the id is released
        // right away. The wait may raise an error, which is caught.
        unsafe {
            pg_sys::LockAcquire(&tag, mode, false, false);
            pg_sys::LockRelease(&tag, mode, false);
        }
        true
    });
    in_subtransaction(
        || {
            pgrx::PgTryBuilder::new(attempt)
                .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| false)
                .catch_when(PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED, |_| false)
                .execute()
        },
        |has_ended| *has_ended,
    )
}

impl Row<'_> {
    /// Another transaction that has locked or changed the row, so that it can't be changed now.
    pub fn holder(&self) -> Option<LockHolder> {
        const KINDS: u32 = pg_sys::HEAP_XMAX_EXCL_LOCK | pg_sys::HEAP_XMAX_KEYSHR_LOCK;
        // SAFETY: the header is in the row's page, which is pinned. Other processes may set hint
        // bits in it, which the result does not depend on.
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
            // FOR KEY SHARE does not conflict with an update that changes no key.
            None
        } else {
            is_others(held_by).then_some(LockHolder(held_by))
        }
    }

    /// Locks the row FOR NO KEY UPDATE until the transaction ends, without waiting. False if
    /// another transaction has locked or changed it.
    pub fn lock(&self, relation: &Relation) -> bool {
        let mut tuple = self.tuple();
        let mut buffer = 0;
        // SAFETY: the relation is open. Only the TID of the tuple is read. The pin on its page is
        // released right away.
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

/// Another transaction among the members of a multixact.
fn members(several: pg_sys::MultiXactId, only_locks: bool) -> Option<LockHolder> {
    const KEY_SHARE: pg_sys::MultiXactStatus::Type =
        pg_sys::MultiXactStatus::MultiXactStatusForKeyShare;
    let mut members = std::ptr::null_mut();
    // SAFETY: PostgreSQL keeps a multixact that a row refers to. The list is palloc'ed, and `count`
    // is its length.
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

/// Whether this is another transaction, and it has not ended.
fn is_others(transaction: TransactionId) -> bool {
    // SAFETY: reads the state of the transaction and shared memory.
    unsafe {
        transaction != pg_sys::InvalidTransactionId
            && !pg_sys::TransactionIdIsCurrentTransactionId(transaction)
            && pg_sys::TransactionIdIsInProgress(transaction)
    }
}
