//! Callbacks for the end of transactions and savepoints, and data that belongs to savepoints.
//!
//! The callbacks are registered once with PostgreSQL. pgrx's callbacks last for one transaction,
//! and do not cover PREPARE TRANSACTION.

use crate::callback;
use crate::error::Result;
use crate::major;
use crate::memory::Watch;
use crate::settings::set_local;
use pgrx::pg_sys::{self, SubTransactionId, SubXactEvent, XactEvent};
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

/// The functions that are called in each transaction.
pub struct Course {
    /// Called before the commit. An error makes it an abort.
    pub before_commit: fn() -> Result<()>,
    /// Called before PREPARE TRANSACTION. An error makes it an abort.
    pub before_prepare: fn() -> Result<()>,
    /// Called after the commit or PREPARE TRANSACTION with true, and after the abort with false.
    /// The outcome is final, so this must not fail.
    pub ended: fn(bool),
    /// Called when a subtransaction has committed: its parent takes over what belongs to it. This
    /// must not fail.
    pub released: fn(SubTransactionId, SubTransactionId),
    /// Called when a subtransaction has aborted. This must not fail.
    pub rolled_back: fn(SubTransactionId),
}

static COURSE: OnceLock<Course> = OnceLock::new();

/// Registers the functions. To be called once, from `_PG_init`.
pub fn follow(course: Course) {
    COURSE.get_or_init(|| course);
    // SAFETY: the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_savepoint), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn at_transaction(event: XactEvent::Type, _: *mut c_void) {
    let Some(course) = COURSE.get() else { return };
    let step = || match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => Watch::over(course.before_commit),
        XactEvent::XACT_EVENT_PRE_PREPARE => Watch::over(course.before_prepare),
        // A parallel worker writes nothing before its leader does. Its usage records are passed on
        // when it ends.
        XactEvent::XACT_EVENT_COMMIT
        | XactEvent::XACT_EVENT_PREPARE
        | XactEvent::XACT_EVENT_PARALLEL_COMMIT => {
            (course.ended)(true);
            Ok(())
        }
        XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PARALLEL_ABORT => {
            (course.ended)(false);
            Ok(())
        }
        _ => Ok(()),
    };
    // SAFETY: this frame holds nothing that needs dropping.
    unsafe { callback::guarded(step) }
}

unsafe extern "C-unwind" fn at_savepoint(
    event: SubXactEvent::Type,
    ended: SubTransactionId,
    parent: SubTransactionId,
    _: *mut c_void,
) {
    let Some(course) = COURSE.get() else { return };
    let step = || {
        match event {
            SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (course.released)(ended, parent),
            SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (course.rolled_back)(ended),
            _ => {}
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { callback::guarded(step) }
}

/// Whether a transaction is in progress, and can still be committed.
#[inline]
pub fn is_in_progress() -> bool {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::IsTransactionState() }
}

/// Raises an error if no transaction is in progress. Catalog look-ups and locks need one.
#[inline]
pub fn must_be_in_progress() {
    if !is_in_progress() {
        pgrx::error!("keysmith needs a transaction for this");
    }
}

/// The id of the current subtransaction.
pub fn current_subtransaction() -> SubTransactionId {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// When the transaction began.
pub fn started_at() -> i64 {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// The local id (lxid) of the transaction.
pub fn local_id() -> u32 {
    must_be_in_progress();
    // SAFETY: a transaction is in progress.
    unsafe { major::local_transaction_id() }
}

/// Whether the transaction has an id, as one does that has written anything.
pub fn has_written() -> bool {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// The full id of the transaction, outside of savepoints. PostgreSQL assigns one if needed.
pub fn full_id() -> u64 {
    must_be_in_progress();
    // SAFETY: a transaction is in progress. PostgreSQL raises an error if it can't have an id.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Whether the transaction is READ ONLY. All transactions on a standby are.
#[inline]
pub fn is_read_only() -> bool {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::XactReadOnly }
}

/// Whether the process is in parallel mode, and so must not write.
pub fn is_parallel() -> bool {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::IsInParallelMode() }
}

/// The nest level: 0 without a transaction, 1 outside of savepoints.
pub fn nest_level() -> i32 {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Whether this process is a parallel worker.
#[inline]
pub fn is_parallel_worker() -> bool {
    // SAFETY: reads a variable that is set when the process starts.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether a security-restricted operation is running: code of another role, which must not leave
/// state behind.
pub fn is_security_restricted() -> bool {
    // SAFETY: reads the security context.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Makes the commit of this transaction wait until it is on disk, whatever the session has set.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Makes the commit of this transaction wait for synchronous standbys until they have flushed it,
/// whatever the session has set. To be called before the commit: SET LOCAL could undo it earlier.
pub fn force_synchronous_commit() {
    let flushed = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH;
    // SAFETY: reads a setting.
    if unsafe { pg_sys::synchronous_commit } < flushed as i32 {
        set_local(c"synchronous_commit", c"on");
    }
}

/// Makes the changes so far visible to the following commands of the transaction.
pub fn increment_command_counter() {
    must_be_in_progress();
    // SAFETY: a transaction is in progress.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Flushes the WAL that the transaction has written so far.
pub fn flush() {
    // SAFETY: the end of the last record that this backend wrote in the transaction.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
}

/// Runs `body` with the transaction's snapshot as the active one. At a commit, for example, there
/// is no active snapshot.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    must_be_in_progress();
    // SAFETY: the snapshot is popped again; after an error the abort pops it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Raises PostgreSQL's error for a command that a READ ONLY transaction can't run.
pub fn must_not_be_read_only(command: &CStr) {
    // SAFETY: a C string, which is copied.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// Raises PostgreSQL's error for a command that can't be run in parallel mode.
pub fn must_not_be_parallel(command: &CStr) {
    // SAFETY: a C string, which is copied.
    unsafe { pg_sys::PreventCommandIfParallelMode(command.as_ptr()) };
}

/// Runs `attempt` in a subtransaction. It is committed if `is_done` returns true for the result,
/// and otherwise rolled back. An error in `attempt` rolls it back, too. If it stayed open, a block of
/// PL/pgSQL that handles the error would end it, and not the subtransaction of the block. The block
/// would go on as the role that was in force here.
pub fn in_subtransaction<T>(attempt: impl FnOnce() -> T, is_done: impl FnOnce(&T) -> bool) -> T {
    must_be_in_progress();
    // SAFETY: the same calls as in PL/pgSQL for a block with an exception handler. A rollback would
    // also release LWLocks that were taken before the subtransaction. The check makes sure that the
    // caller holds no LWLock, since a held LWLock holds off interrupts.
    unsafe {
        if pg_sys::InterruptHoldoffCount > 0 {
            pgrx::error!("a subtransaction can't be begun under a lock");
        }
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let level = pg_sys::GetCurrentTransactionNestLevel();
        let end = |is_done| {
            if is_done {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                // An error may have left open a subtransaction that `attempt` began.
                while pg_sys::GetCurrentTransactionNestLevel() >= level {
                    pg_sys::RollbackAndReleaseCurrentSubTransaction();
                }
            }
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        let done = pgrx::PgTryBuilder::new(AssertUnwindSafe(attempt))
            .catch_others(|error| {
                end(false);
                error.rethrow()
            })
            .execute();
        end(is_done(&done));
        done
    }
}

/// Values that a transaction keeps, each with the subtransaction that added it. If that is rolled
/// back, its values are dropped. The list is taken out of its cell during each change, so that a
/// callback never meets a borrowed list.
///
/// It is never dropped. If some library calls `exit`, the transaction is aborted after the
/// thread-locals with destructors are gone, and the callback could not use a destroyed one.
pub struct PerTransaction<T>(ManuallyDrop<Cell<Vec<(SubTransactionId, T)>>>);

impl<T> Default for PerTransaction<T> {
    fn default() -> Self {
        PerTransaction::new()
    }
}

impl<T> PerTransaction<T> {
    pub const fn new() -> Self {
        PerTransaction(ManuallyDrop::new(Cell::new(Vec::new())))
    }

    /// Adds a value, which belongs to the current subtransaction.
    pub fn put(&self, value: T) {
        let now = current_subtransaction();
        self.change(|list| list.push((now, value)));
    }

    /// Moves the values of a committed subtransaction to its parent.
    pub fn released(&self, ended: SubTransactionId, parent: SubTransactionId) {
        self.change(|list| {
            let theirs = list.iter_mut().rev().take_while(|(owner, _)| *owner >= ended);
            theirs.for_each(|(owner, _)| *owner = parent);
        });
    }

    /// Drops the values of an aborted subtransaction.
    pub fn rolled_back(&self, ended: SubTransactionId) {
        self.change(|list| list.truncate(list.partition_point(|(owner, _)| *owner < ended)));
    }

    /// Removes all values, and returns them.
    pub fn take(&self) -> Vec<(SubTransactionId, T)> {
        self.0.take()
    }

    /// Passes the list to `with`, which may change it.
    pub fn change<R>(&self, with: impl FnOnce(&mut Vec<(SubTransactionId, T)>) -> R) -> R {
        let mut list = self.0.take();
        let result = with(&mut list);
        self.0.set(list);
        result
    }
}
