//! Waiting.

use pgrx::pg_sys;

/// Waits for so many milliseconds, or until someone wakes the process.
pub fn wait(milliseconds: i64) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the process's own latch.
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
