//! Clocks.

use crate::direct;

/// In microseconds, as all times here.
pub const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// PostgreSQL's, in microseconds: for what is stored or shown.
#[inline]
pub fn now() -> i64 {
    // SAFETY: asks the operating system, and raises no error.
    unsafe { direct::GetCurrentTimestamp() }
}

/// A clock that nobody sets, for how long something takes or waits: microseconds since the
/// machine was started, or some other moment in its past. All processes agree on it.
pub fn monotonic() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the structure; this clock is on every machine.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}
