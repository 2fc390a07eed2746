//! A clock that nobody sets, for how long something takes or waits. What is stored or shown
//! goes by PostgreSQL's.

/// Microseconds since the machine was started, or some other moment in its past. All
/// processes agree on it.
pub fn monotonic() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the structure; this clock is on every machine.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}
