//! Latches: waiting, and waking a process that waits.

use crate::direct;
use crate::server::is_attached;
use crate::shmem::Shareable;
use pgrx::pg_sys;
use std::ptr::null_mut;

/// The latch of a process, stored in shared memory so that other processes can set it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Latch(*mut pg_sys::Latch);

// SAFETY: null, or a pointer into shared memory, which has the same address in all processes.
unsafe impl Shareable for Latch {}

impl Latch {
    /// The latch of no process.
    pub const NONE: Latch = Latch(null_mut());

    /// The latch of this process; `NONE` if it is not attached to shared memory.
    pub fn own() -> Latch {
        if !is_attached() {
            return Latch::NONE;
        }
        // SAFETY: an attached process has a PGPROC in shared memory, which contains its latch.
        Latch(unsafe { &raw mut (*pg_sys::MyProc).procLatch })
    }

    /// Wakes the process that owns the latch now. If the process that stored it has ended, another
    /// process is woken needlessly, or none.
    pub fn set(self) {
        if !self.0.is_null() {
            // SAFETY: the latch is in shared memory, which is never freed. SetLatch raises no
            // error.
            unsafe { direct::SetLatch(self.0) };
        }
    }
}

/// Waits until the latch of this process is set, or for this many milliseconds.
pub fn wait(milliseconds: i64) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    if !is_attached() {
        return;
    }
    // SAFETY: an attached process has a latch.
    unsafe {
        let latch = pg_sys::MyLatch;
        pg_sys::WaitLatch(latch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(latch);
    }
}

/// Waits for ten milliseconds at most, and processes interrupts.
pub fn rest() {
    wait(10);
    pgrx::check_for_interrupts!();
}
