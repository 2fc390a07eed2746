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

/// Takes the weight of each claim from its limit, or nothing from any.
pub fn take<'a>(claims: &[Claim<'a>]) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    let outcome = table.lock(claims).take(now());
    if matches!(outcome, Admission::Unavailable) {
        table.count_refusal();
    }
    outcome
}

/// Answers as `take` would, without taking anything and without checking that there is room for a
/// bucket.
pub fn peek<'a>(claims: &[Claim<'a>]) -> Admission<'a> {
    let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
    table.lock(claims).look(now())
}

/// Gives back what `take` took.
pub fn give_back(claims: &[Claim]) {
    if let Some(table) = BucketTable::shared() {
        table.lock(claims).give_back(now());
    }
}

/// Charges the limits of a unit what a request used beyond what `take` took, or gives back what it
/// did not use. False if that can't be counted.
pub fn settle(claims: &[Claim], unit: &[u8], difference: i64) -> bool {
    BucketTable::shared().is_some_and(|table| table.lock(claims).settle(now(), unit, difference))
}
