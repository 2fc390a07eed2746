//! Rate limits: the table of buckets in shared memory, and how calls are taken from it.
//!
//! All limits of a decision are looked at before a call is taken from any, while the
//! locks of all their parts are held, in order. So the count is exact however many
//! sessions call at once. The clock is the machine's monotonic one, which is the same
//! for all sessions and which setting the time of day does not move.

mod status;
mod table;

pub use table::{REGION, is_there};

use keysmith_core::buckets::Owner;
use keysmith_core::gcra::{Bucket, Check, Rate};
use keysmith_core::siphash::SipHasher;
use table::{BucketTable, LockedParts};

/// A limit that a decision is held to.
pub struct Claim<'a> {
    pub name: &'a [u8],
    pub rate: Rate,
    /// What its bucket is found by.
    pub bucket: u128,
    /// For whom it is counted.
    pub owner: Owner,
}

/// How a claim on all of a decision's limits ends.
#[derive(Clone, Copy)]
pub enum Outcome<'a> {
    /// The limit that has the fewest calls left, and how many.
    Passed { name: &'a [u8], remaining: u32 },
    /// The limit that refuses, and after how many microseconds it will not.
    Refused { name: &'a [u8], remaining: u32, retry_after: Option<u64> },
    /// There is no room to count, or no table: nobody knows.
    Unavailable,
}

/// A hash that starts with the table's own key. `None` without preload.
pub fn hasher() -> Option<SipHasher> {
    BucketTable::shared().map(|table| SipHasher::new(table.key()))
}

/// Takes so many calls from all limits, or from none.
pub fn take<'a>(claims: &[Claim<'a>], weight: u32) -> Outcome<'a> {
    let Some(table) = BucketTable::shared() else { return Outcome::Unavailable };
    // Nothing is put back from the last one.
    let mut taken: Vec<Option<Bucket>> = Vec::with_capacity(claims.len().saturating_sub(1));
    let mut locked = LockedParts::all(table, claims);
    let now = table::now();
    // Nothing below allocates, or can fail: sessions wait for these locks.
    let outcome = look(&mut locked, claims, now, weight);
    if weight == 0 || !matches!(outcome, Outcome::Passed { .. }) {
        return outcome;
    }
    for claim in claims {
        let part = locked.part(claim);
        let before = part.find(claim.bucket);
        let after = at_rate(before, claim, now).taken(claim.rate, now, weight);
        if part.put(claim.bucket, after, claim.owner, now) {
            if taken.len() + 1 < claims.len() {
                taken.push(before);
            }
            continue;
        }
        // What was taken from the limits before it is put back.
        for (claim, before) in claims.iter().zip(&taken) {
            let before = at_rate(*before, claim, now);
            locked.part(claim).put(claim.bucket, before, claim.owner, now);
        }
        table.count_refusal();
        return Outcome::Unavailable;
    }
    outcome
}

/// Looks what `take` would say, save whether there is room.
pub fn peek<'a>(claims: &[Claim<'a>], weight: u32) -> Outcome<'a> {
    let Some(table) = BucketTable::shared() else { return Outcome::Unavailable };
    let mut locked = LockedParts::all(table, claims);
    look(&mut locked, claims, table::now(), weight)
}

/// Gives back what `take` took.
pub fn give_back(claims: &[Claim], weight: u32) {
    let Some(table) = BucketTable::shared() else { return };
    let mut locked = LockedParts::all(table, claims);
    let now = table::now();
    for claim in claims {
        let part = locked.part(claim);
        if let Some(bucket) = part.find(claim.bucket) {
            let bucket = bucket.at_rate(claim.rate, now).given_back(weight);
            part.put(claim.bucket, bucket, claim.owner, now);
        }
    }
}

/// Asks all limits. Of those that refuse, the one that does so longest is told: a call
/// that comes after it is refused by none.
fn look<'a>(locked: &mut LockedParts, claims: &[Claim<'a>], now: u64, weight: u32) -> Outcome<'a> {
    let mut passed: Option<(&[u8], u32)> = None;
    let mut refused: Option<(&[u8], u32, Option<u64>)> = None;
    for claim in claims {
        let part = locked.part(claim);
        let before = part.find(claim.bucket);
        let bucket = at_rate(before, claim, now);
        match bucket.check(now, weight) {
            Check::Allowed { remaining } => {
                if passed.is_none_or(|(_, fewest)| remaining < fewest) {
                    passed = Some((claim.name, remaining));
                }
            }
            Check::Refused { remaining, retry_after } => {
                let longest = refused.map_or(0, |(_, _, wait)| wait.unwrap_or(u64::MAX));
                if refused.is_none() || retry_after.unwrap_or(u64::MAX) > longest {
                    refused = Some((claim.name, remaining, retry_after));
                }
                // An altered limit counts from here on as it is now.
                if before.is_some() {
                    part.put(claim.bucket, bucket, claim.owner, now);
                }
            }
        }
    }
    match (refused, passed) {
        (Some((name, remaining, retry_after)), _) => {
            Outcome::Refused { name, remaining, retry_after }
        }
        (None, Some((name, remaining))) => Outcome::Passed { name, remaining },
        (None, None) => Outcome::Unavailable,
    }
}

fn at_rate(bucket: Option<Bucket>, claim: &Claim, now: u64) -> Bucket {
    bucket.map_or(Bucket::full(claim.rate), |bucket| bucket.at_rate(claim.rate, now))
}
