//! Rate limits: the table of buckets in shared memory, and how calls are taken from it.
//!
//! The clock is the machine's monotonic one. It is the same for all sessions, and setting the
//! time of day does not change it.

#![forbid(unsafe_code)]

mod status;
mod table;

pub use keysmith_core::claims::{Claim, Outcome};
pub use table::{REGION, is_there};

use keysmith_core::siphash::SipHasher;
use table::{Table, now};

/// A hash that starts with the table's own key. `None` without preload.
pub fn hasher() -> Option<SipHasher> {
    Table::shared().map(|table| SipHasher::new(table.key()))
}

/// Takes so many calls from all limits, or from none.
pub fn take<'a>(claims: &[Claim<'a>], weight: u32) -> Outcome<'a> {
    let Some(table) = Table::shared() else { return Outcome::Unavailable };
    let outcome = table.lock(claims).take(now(), weight);
    if matches!(outcome, Outcome::Unavailable) {
        table.count_refusal();
    }
    outcome
}

/// What `take` would answer, except that there may be no room.
pub fn peek<'a>(claims: &[Claim<'a>], weight: u32) -> Outcome<'a> {
    let Some(table) = Table::shared() else { return Outcome::Unavailable };
    table.lock(claims).look(now(), weight)
}

/// Gives back what `take` took.
pub fn give_back(claims: &[Claim], weight: u32) {
    if let Some(table) = Table::shared() {
        table.lock(claims).give_back(now(), weight);
    }
}
