//! Limits: the table of rate limits' buckets and that of slots in shared memory, and how requests
//! take from both.
//!
//! The clock is the machine's monotonic one. It is the same for all sessions, and setting the
//! time of day does not change it.

pub mod failures;
pub mod slots;
mod status;
mod table;
pub mod unsettled;

pub use keysmith_core::claims::{Admission, Claim, Left};
pub use table::{FAILURES, REGION, is_there};

use keysmith_core::siphash::SipHasher;
use slots::{Outcome, SlotClaim};
use std::slice;
use table::{BucketTable, now};

/// All limits that a decision is held to.
#[derive(Default)]
pub struct Claims<'a> {
    pub rates: Vec<Claim<'a>>,
    pub slots: Vec<SlotClaim<'a>>,
}

/// What a decision took. It is given back when this is dropped, also if the decision fails or is cancelled,
/// unless it is kept.
#[derive(Default)]
pub struct Taken<'a> {
    rates: Vec<Claim<'a>>,
    slots: Vec<u64>,
}

impl<'a> Taken<'a> {
    /// The rate limits that it was taken from.
    pub fn rates(&self) -> &[Claim<'a>] {
        &self.rates
    }

    /// The decision is made.
    pub fn keep(mut self) {
        self.rates.clear();
        self.slots.clear();
    }
}

impl Drop for Taken<'_> {
    /// It may run while an error is on its way: it asks for no memory, and one limit at a time is locked.
    fn drop(&mut self) {
        slots::give_back(&self.slots);
        for claim in &mut self.rates {
            if let Some(table) = BucketTable::shared() {
                table.lock(slice::from_mut(claim)).give_back(now());
            }
        }
    }
}

/// A hash that begins with the table's secret key; `None` if the library is not preloaded.
pub fn hasher() -> Option<SipHasher> {
    BucketTable::shared().map(|table| SipHasher::new(table.key()))
}

/// Takes a slot where requests are counted at the same time, and the weight of each other claim from
/// its limit; or nothing from any. Slots come first, since giving one back leaves no trace.
pub fn take<'a>(claims: Claims<'a>) -> (Admission<'a>, Taken<'a>) {
    let Claims { mut rates, slots } = claims;
    let mut taken = Vec::new();
    let of_slots = (!slots.is_empty()).then(|| admission(slots::take(&slots, &mut taken)));
    let outcome = both(of_slots, rates.is_empty(), || {
        let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
        let outcome = table.lock(&mut rates).take(now());
        if matches!(outcome, Admission::Unavailable) {
            table.count_refusal();
        }
        outcome
    });
    if matches!(outcome, Admission::Passed(_)) {
        return (outcome, Taken { rates, slots: taken });
    }
    slots::give_back(&taken);
    (outcome, Taken::default())
}

/// Answers as `take` would, without taking anything and without checking that there is room.
pub fn peek<'a>(claims: Claims<'a>) -> Admission<'a> {
    let Claims { mut rates, slots } = claims;
    let of_slots = (!slots.is_empty()).then(|| admission(slots::peek(&slots)));
    both(of_slots, rates.is_empty(), || {
        let Some(table) = BucketTable::shared() else { return Admission::Unavailable };
        table.lock(&mut rates).look(now())
    })
}

fn admission(outcome: Outcome) -> Admission {
    match outcome {
        Outcome::Passed(left) => Admission::Passed(left),
        Outcome::Refused(limit) => Admission::Refused { limit, retry_after: None },
        Outcome::Unavailable => Admission::Unavailable,
    }
}

/// The answer of rates after that of slots. The limit that is told is the tighter one.
fn both<'a>(
    of_slots: Option<Admission<'a>>,
    no_rates: bool,
    of_rates: impl FnOnce() -> Admission<'a>,
) -> Admission<'a> {
    match of_slots {
        None => of_rates(),
        Some(Admission::Passed(slots)) if !no_rates => match of_rates() {
            Admission::Passed(rates) if slots.is_tighter(&rates) => Admission::Passed(slots),
            outcome => outcome,
        },
        Some(outcome) => outcome,
    }
}
