//! The transaction's course: who is told of it, and what is remembered for each of its
//! savepoints.
//!
//! The callbacks are registered once, raw: pgrx's own are for one transaction, and
//! know nothing of PREPARE.

use crate::callback;
use crate::error::Result;
use crate::major;
use crate::memory::Watch;
use pgrx::pg_sys::{self, SubTransactionId, SubXactEvent, XactEvent};
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

/// What is called in the course of each transaction.
pub struct Course {
    /// An error turns the commit into an abort.
    pub before_commit: fn() -> Result<()>,
    /// The same for a transaction that is prepared for a commit in two phases.
    pub before_prepare: fn() -> Result<()>,
    /// It has ended, for this session at least: true unless it was rolled back. There is no
    /// way back, so nothing may be done that could fail.
    pub ended: fn(bool),
    /// What is of a savepoint is of the one around it from now on. Nor may this fail.
    pub released: fn(SubTransactionId, SubTransactionId),
    pub rolled_back: fn(SubTransactionId),
}

static COURSE: OnceLock<Course> = OnceLock::new();

/// To be called once, from `_PG_init`.
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
        // A parallel worker writes nothing before its leader does. What it logged of a request
        // is handed on at its end.
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
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Raises an error where no transaction is in progress: what looks into catalogs or takes locks
/// needs one.
#[inline]
pub fn must_be_in_progress() {
    if !is_in_progress() {
        pgrx::error!("keysmith needs a transaction for this");
    }
}

/// The number of the (sub)transaction that is in progress.
pub fn current_subtransaction() -> SubTransactionId {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// When the transaction began.
pub fn started_at() -> i64 {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// The number by which this session knows its transaction.
pub fn local_id() -> u32 {
    must_be_in_progress();
    // SAFETY: a transaction is in progress.
    unsafe { major::local_transaction_id() }
}

/// Whether it has written anything.
pub fn has_written() -> bool {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Whether the transaction is READ ONLY, as on a standby all are.
#[inline]
pub fn is_read_only() -> bool {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::XactReadOnly }
}

/// Whether this process works for a query in parallel with others, and so may not write.
pub fn is_parallel() -> bool {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::IsInParallelMode() }
}

/// How deep in savepoints the transaction is: 1 outside of all, 0 where there is none.
pub fn nest_level() -> i32 {
    // SAFETY: a look at the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Whether this process does a part of another's work.
#[inline]
pub fn is_parallel_worker() -> bool {
    // SAFETY: set when the process began.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether code of someone else runs in it, which must leave nothing behind.
pub fn is_security_restricted() -> bool {
    // SAFETY: reads the security context.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Has the commit of this transaction wait until it is on disk, whatever the session's settings.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Has what it did be seen by what it does next.
pub fn increment_command_counter() {
    must_be_in_progress();
    // SAFETY: a transaction is in progress.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Flushes what it wrote so far.
pub fn flush() {
    // SAFETY: the end of the last record that this backend wrote in the transaction.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
}

/// Runs something under the transaction's snapshot, where there may be none, as at a commit.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    must_be_in_progress();
    // SAFETY: pushed and popped; an error's abort pops it too.
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

/// Runs something within a transaction, which is rolled back unless it is done.
pub fn in_subtransaction<T>(attempt: impl FnOnce() -> T, is_done: impl FnOnce(&T) -> bool) -> T {
    must_be_in_progress();
    // SAFETY: what PL/pgSQL does for a block with an exception handler. Rolling it back would
    // let go of locks that are held outside of it: under one, interrupts are held off.
    unsafe {
        if pg_sys::InterruptHoldoffCount > 0 {
            pgrx::error!("a subtransaction can't be begun under a lock");
        }
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let level = pg_sys::GetCurrentTransactionNestLevel();
        let done = attempt();
        if is_done(&done) {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            // An error may have left another that it began in.
            while pg_sys::GetCurrentTransactionNestLevel() >= level {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        done
    }
}

/// Things that a transaction remembers, each with the (sub)transaction that they
/// were put down in: rolling it back forgets them. The list is taken out and put
/// back, so that no borrow can be in the way when a callback comes.
///
/// It is never dropped: a process that a library ends by `exit` aborts its transaction
/// after thread-locals that need dropping are gone, and the callback would find none.
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

    pub fn put(&self, value: T) {
        let now = current_subtransaction();
        self.change(|list| list.push((now, value)));
    }

    pub fn released(&self, ended: SubTransactionId, parent: SubTransactionId) {
        self.change(|list| {
            let theirs = list.iter_mut().rev().take_while(|(owner, _)| *owner >= ended);
            theirs.for_each(|(owner, _)| *owner = parent);
        });
    }

    pub fn rolled_back(&self, ended: SubTransactionId) {
        self.change(|list| list.truncate(list.partition_point(|(owner, _)| *owner < ended)));
    }

    /// All that is remembered, which is then forgotten.
    pub fn take(&self) -> Vec<(SubTransactionId, T)> {
        self.0.take()
    }

    pub fn change<R>(&self, with: impl FnOnce(&mut Vec<(SubTransactionId, T)>) -> R) -> R {
        let mut list = self.0.take();
        let result = with(&mut list);
        self.0.set(list);
        result
    }
}
