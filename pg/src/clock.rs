//! Clocks.

use crate::direct;

/// A day in microseconds, the unit of all times here.
pub const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// The current time as a timestamptz, for times that are stored or shown.
#[inline]
pub fn now() -> i64 {
    // SAFETY: asks the operating system, and raises no error.
    unsafe { direct::GetCurrentTimestamp() }
}

/// A clock that only goes forward, to measure durations and waits: microseconds since some moment
/// in the past, usually the start of the machine. All processes read the same clock.
pub fn monotonic() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only; every platform of PostgreSQL has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}
