//! Waits after failures, each twice as long as the one before.

use pg::clock::monotonic;

/// In microseconds.
pub const SHORTEST: i64 = 50_000;
const LONGEST: i64 = 10_000_000;

pub struct Backoff {
    /// Nothing is tried before. 0 if nothing has failed.
    until: i64,
    wait: i64,
}

impl Backoff {
    pub const fn new() -> Backoff {
        Backoff { until: 0, wait: SHORTEST }
    }

    pub fn until(&self) -> i64 {
        self.until
    }

    pub fn may_try(&self) -> bool {
        monotonic() >= self.until
    }

    pub fn has_failed(&self) -> bool {
        self.until > 0
    }

    pub fn fail(&mut self) {
        self.pause(self.wait);
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// Waits so long once.
    pub fn pause(&mut self, wait: i64) {
        self.until = monotonic() + wait;
    }

    /// Ends the wait: the next attempt is made right away.
    pub fn go_on(&mut self) {
        self.until = 0;
    }

    /// The next wait is a short one.
    pub fn reset_wait(&mut self) {
        self.wait = SHORTEST;
    }

    pub fn succeed(&mut self) {
        *self = Backoff::new();
    }
}
