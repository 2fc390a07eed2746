//! Rate limits: the table of buckets in shared memory, and how calls are taken from it.
//!
//! The clock is the machine's monotonic one. It is the same for all sessions, and setting the
//! time of day does not change it.

mod status;
mod table;

pub use keysmith_core::claims::{Admission, Claim};
pub use table::{REGION, is_there};

use keysmith_core::siphash::SipHasher;
use table::{BucketTable, now};

/// A hash that starts with the table's own key. `None` without preload.
pub fn hasher() -> Option<SipHasher> {
    BucketTable::shared().map(|table| SipHasher::new(table.key()))
}

/// Takes so many calls from all limits, or from none.
pub fn take<'a>(claims: &[Claim<'a>], weight: u32) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    let outcome = table.lock(claims).take(now(), weight);
    if matches!(outcome, Admission::Unavailable) {
        table.count_refusal();
    }
    outcome
}

/// What `take` would answer, except that there may be no room.
pub fn peek<'a>(claims: &[Claim<'a>], weight: u32) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    table.lock(claims).look(now(), weight)
}

/// Gives back what `take` took.
pub fn give_back(claims: &[Claim], weight: u32) {
    if let Some(table) = BucketTable::shared() {
        table.lock(claims).give_back(now(), weight);
    }
}
