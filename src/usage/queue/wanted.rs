//! Days for which a session waits that the worker makes partitions.

use pg::shmem::shareable;
use std::collections::BTreeSet;

shareable! {
    /// Days for which somebody waits that there are partitions.
    #[derive(Clone, Copy, Default)]
    pub struct Wanted {
        first: i64,
        /// How many; 0 for none.
        count: i64,
    }
}

impl Wanted {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn add(&mut self, first: i64, last: i64) {
        let (begin, end) = if self.is_empty() {
            (first, last + 1)
        } else {
            (first.min(self.first), (last + 1).max(self.first + self.count))
        };
        *self = Wanted { first: begin, count: end - begin };
    }

    /// Takes the days out: none of them is wanted afterwards.
    pub fn take(&mut self) -> BTreeSet<i64> {
        let days = (self.first..self.first + self.count).collect();
        self.count = 0;
        days
    }
}
