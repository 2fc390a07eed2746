//! Waiting, and waking who waits.

use crate::direct;
use crate::server::is_attached;
use crate::shmem::Shareable;
use pgrx::pg_sys;
use std::ptr::null_mut;

/// The latch of a process, to be kept in shared memory for others to set.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Latch(*mut pg_sys::Latch);

// SAFETY: null, or of shared memory, which lies in the same place for all processes.
unsafe impl Shareable for Latch {}

impl Latch {
    /// The latch of no process.
    pub const NONE: Latch = Latch(null_mut());

    /// This process's own, if it takes part in shared memory.
    pub fn own() -> Latch {
        if !is_attached() {
            return Latch::NONE;
        }
        // SAFETY: a process that is attached has an entry in shared memory, and its latch there.
        Latch(unsafe { &raw mut (*pg_sys::MyProc).procLatch })
    }

    /// Wakes the process that has the latch now. Its owner may be gone: then another is woken
    /// for nothing, or none.
    pub fn set(self) {
        if !self.0.is_null() {
            // SAFETY: a latch of shared memory, which stays. This raises no error.
            unsafe { direct::SetLatch(self.0) };
        }
    }
}

/// Waits for so many milliseconds, or until someone wakes the process.
pub fn wait(milliseconds: i64) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    if !is_attached() {
        return;
    }
    // SAFETY: the process's own latch, which one that is attached has.
    unsafe {
        let latch = pg_sys::MyLatch;
        pg_sys::WaitLatch(latch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(latch);
    }
}

/// Waits for ten milliseconds at most, and attends to interrupts.
pub fn rest() {
    wait(10);
    pgrx::check_for_interrupts!();
}
