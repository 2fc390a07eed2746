//! Days for which a session wants a partition. The worker makes it.

use pg::shmem::shareable;
use std::collections::BTreeSet;

shareable! {
    #[derive(Clone, Copy, Default)]
    pub struct WantedDays {
        first: i64,
        /// The number of days.
        count: i64,
    }
}

impl WantedDays {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn add(&mut self, first: i64, last: i64) {
        let (begin, end) = if self.is_empty() {
            (first, last + 1)
        } else {
            (first.min(self.first), (last + 1).max(self.first + self.count))
        };
        *self = WantedDays { first: begin, count: end - begin };
    }

    /// Takes the days out: they are wanted no more.
    pub fn take(&mut self) -> BTreeSet<i64> {
        let days = (self.first..self.first + self.count).collect();
        self.count = 0;
        days
    }
}
