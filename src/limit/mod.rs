//! Rate limits: the table of buckets in shared memory, and how calls are taken from it.
//!
//! The clock is the machine's monotonic one. It is the same for all sessions, and setting the
//! time of day does not change it.

pub mod failures;
mod status;
mod table;

pub use keysmith_core::claims::{Admission, Claim, Left};
pub use table::{FAILURES, REGION, is_there};

use keysmith_core::siphash::SipHasher;
use table::{BucketTable, now};

/// A hash that begins with the table's secret key; `None` if the library is not preloaded.
pub fn hasher() -> Option<SipHasher> {
    BucketTable::shared().map(|table| SipHasher::new(table.key()))
}

/// Takes `weight` calls from all limits, or from no limit.
pub fn take<'a>(claims: &[Claim<'a>], weight: u32) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    let outcome = table.lock(claims).take(now(), weight);
    if matches!(outcome, Admission::Unavailable) {
        table.count_refusal();
    }
    outcome
}

/// Answers as `take` would, without taking calls and without checking that there is room for a
/// bucket.
pub fn peek<'a>(claims: &[Claim<'a>], weight: u32) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    table.lock(claims).look(now(), weight)
}

/// Gives the calls back that `take` took.
pub fn give_back(claims: &[Claim], weight: u32) {
    if let Some(table) = BucketTable::shared() {
        table.lock(claims).give_back(now(), weight);
    }
}
