//! How a decision takes calls from all of its limits, or from none.
//!
//! The buckets are in parts with a lock each. All parts of a decision are locked before any
//! bucket is looked at. So the counts are exact, however many sessions call at the same time.

use crate::buckets::{Owner, Part};
use crate::gcra::{Bucket, Check, Rate};
use std::ops::DerefMut;

/// A limit that a decision is held to.
pub struct Claim<'a> {
    pub name: &'a [u8],
    pub rate: Rate,
    /// The name of its bucket.
    pub bucket: u128,
    /// The owner of the bucket.
    pub owner: Owner,
}

impl Claim<'_> {
    /// The part of its bucket, by a name's high bits. Parts choose chains by the low ones.
    fn part(&self, parts: usize) -> usize {
        let high = (self.bucket >> 64) as u64;
        usize::try_from(high % parts.max(1) as u64).unwrap_or(0)
    }
}

/// What is left of a limit after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left<'a> {
    pub name: &'a [u8],
    pub rate: Rate,
    pub remaining: u32,
    /// After how many microseconds no call is missing, if no other comes.
    pub reset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// The limit that has the fewest calls left.
    Passed(Left<'a>),
    /// The limit that refuses for the longest time, and after how many microseconds it will
    /// not.
    Refused { limit: Left<'a>, retry_after: Option<u64> },
    /// The calls can't be counted: there is no room, or no table.
    Unavailable,
}

/// The parts of a decision's claims. `G` keeps a part locked.
pub struct LockedParts<'c, 'a, G> {
    claims: &'c [Claim<'a>],
    parts: usize,
    /// Most decisions have one limit. Then no memory is asked for.
    first: Option<(usize, G)>,
    others: Vec<(usize, G)>,
    /// The buckets before `take` changed them, but for the last.
    before: Vec<Option<Bucket>>,
}

impl<'c, 'a, G: DerefMut<Target = Part>> LockedParts<'c, 'a, G> {
    /// Locks the parts in the order of their numbers, so that sessions don't wait in a circle.
    /// A decision has far fewer limits than PostgreSQL lets a session have locks.
    #[inline]
    pub fn all(
        claims: &'c [Claim<'a>],
        parts: usize,
        lock: impl Fn(usize) -> Option<G>,
    ) -> LockedParts<'c, 'a, G> {
        let lock = |n| lock(n).map(|part| (n, part));
        let before = Vec::with_capacity(claims.len().saturating_sub(1));
        if let [claim] = claims {
            let first = lock(claim.part(parts));
            return LockedParts { claims, parts, first, others: Vec::new(), before };
        }
        let mut numbers: Vec<usize> = claims.iter().map(|claim| claim.part(parts)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut others = Vec::with_capacity(numbers.len());
        for n in numbers {
            others.extend(lock(n));
        }
        LockedParts { claims, parts, first: None, others, before }
    }

    /// Takes so many calls from all limits, or from none. It asks for no memory, and can't
    /// fail: sessions wait for the locks.
    pub fn take(&mut self, now: u64, weight: u32) -> Admission<'a> {
        let outcome = self.look(now, weight);
        if weight == 0 || !matches!(outcome, Admission::Passed { .. }) {
            return outcome;
        }
        for (n, claim) in self.claims.iter().enumerate() {
            let part = self.part(claim);
            let before = part.find(claim.bucket);
            let after = at_rate(before, claim, now).taken(claim.rate, now, weight);
            if !part.put(claim.bucket, after, claim.owner, now) {
                self.put_back(now);
                return Admission::Unavailable;
            }
            if n + 1 < self.claims.len() {
                self.before.push(before);
            }
        }
        outcome
    }

    /// Undoes what `take` has done so far.
    fn put_back(&mut self, now: u64) {
        while let Some(before) = self.before.pop() {
            let Some(claim) = self.claims.get(self.before.len()) else { return };
            let before = at_rate(before, claim, now);
            self.part(claim).put(claim.bucket, before, claim.owner, now);
        }
    }

    /// Gives back what `take` took.
    pub fn give_back(&mut self, now: u64, weight: u32) {
        for claim in self.claims {
            let part = self.part(claim);
            if let Some(bucket) = part.find(claim.bucket) {
                let bucket = bucket.at_rate(claim.rate, now).given_back(weight);
                part.put(claim.bucket, bucket, claim.owner, now);
            }
        }
    }

    /// Takes nothing, and returns the answer of `take`, except that there may be no room. If
    /// several limits refuse, the answer names the one that does so for the longest time: no
    /// limit refuses a call after that.
    pub fn look(&mut self, now: u64, weight: u32) -> Admission<'a> {
        let mut passed: Option<(&Claim, Bucket, u32)> = None;
        let mut refused: Option<(&Claim, Bucket, u32, Option<u64>)> = None;
        for claim in self.claims {
            let part = self.part(claim);
            let before = part.find(claim.bucket);
            let bucket = at_rate(before, claim, now);
            match bucket.check(now, weight) {
                Check::Allowed { remaining } => {
                    if passed.is_none_or(|(_, _, fewest)| remaining < fewest) {
                        passed = Some((claim, bucket, remaining));
                    }
                }
                Check::Refused { remaining, retry_after } => {
                    let longest = refused.map_or(0, |(_, _, _, wait)| wait.unwrap_or(u64::MAX));
                    if refused.is_none() || retry_after.unwrap_or(u64::MAX) > longest {
                        refused = Some((claim, bucket, remaining, retry_after));
                    }
                    // A limit that was altered counts from here on as it is now.
                    if before.is_some() {
                        part.put(claim.bucket, bucket, claim.owner, now);
                    }
                }
            }
        }
        let left = |claim: &Claim<'a>, bucket: Bucket, remaining, taken| Left {
            name: claim.name,
            rate: claim.rate,
            remaining,
            reset: bucket.reset(now, taken),
        };
        match (refused, passed) {
            (Some((claim, bucket, remaining, retry_after)), _) => {
                Admission::Refused { limit: left(claim, bucket, remaining, 0), retry_after }
            }
            (None, Some((claim, bucket, remaining))) => {
                Admission::Passed(left(claim, bucket, remaining, weight))
            }
            (None, None) => Admission::Unavailable,
        }
    }

    fn part(&mut self, claim: &Claim) -> &mut Part {
        let n = claim.part(self.parts);
        let mut locked = self.first.iter_mut().chain(&mut self.others);
        match locked.find(|(locked, _)| *locked == n) {
            Some((_, part)) => part,
            None => unreachable!("the part of a claim is locked with all others"),
        }
    }
}

fn at_rate(bucket: Option<Bucket>, claim: &Claim, now: u64) -> Bucket {
    bucket.map_or(Bucket::full(claim.rate), |bucket| bucket.at_rate(claim.rate, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A claim on a bucket of a part that refills a call a second.
    fn claim(part: u128, bucket: u128, burst: u32) -> Claim<'static> {
        let rate = Rate::new(1, 1_000_000, burst).unwrap();
        Claim { name: b"name", rate, bucket: part << 64 | bucket, owner: bucket as Owner }
    }

    fn take(parts: &[RefCell<Part>], claims: &[Claim<'static>], now: u64) -> Admission<'static> {
        LockedParts::all(claims, parts.len(), |n| parts.get(n).map(RefCell::borrow_mut))
            .take(now, 1)
    }

    #[test]
    fn nothing_is_taken_if_one_of_the_limits_has_no_room() {
        let parts = [4, 0].map(|capacity| RefCell::new(Part::new(capacity)));
        let (one, other) = (claim(0, 1, 2), claim(0, 2, 2));
        let claims = [one, other, claim(1, 3, 2)];
        assert_eq!(take(&parts, &claims, 0), Admission::Unavailable);
        for bucket in [1, 2, 1, 2] {
            let outcome = take(&parts, &[claim(0, bucket, 2)], 0);
            assert!(matches!(outcome, Admission::Passed { .. }));
        }
        let outcome = take(&parts, &[claim(0, 1, 2)], 0);
        assert!(matches!(outcome, Admission::Refused { .. }));
    }

    #[test]
    fn the_limit_that_refuses_longest_answers() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        let claims = [(0, 1, 1), (1, 2, 1), (1, 3, 9)].map(|(part, bucket, burst)| {
            let name: &[u8] = [b"one", b"two", b"six"][bucket as usize - 1];
            Claim { name, ..claim(part, bucket, burst) }
        });
        assert!(matches!(take(&parts, &claims[..1], 0), Admission::Passed { .. }));
        assert!(matches!(take(&parts, &claims[1..2], 5), Admission::Passed { .. }));
        let left = |name, rate, remaining, reset| Left { name, rate, remaining, reset };
        let limit = left(b"two", claims[1].rate, 0, 999_995);
        let refused = Admission::Refused { limit, retry_after: Some(999_995) };
        assert_eq!(take(&parts, &claims, 10), refused);
        let passed = Admission::Passed(left(b"six", claims[2].rate, 8, 1_000_000));
        assert_eq!(take(&parts, &claims[2..], 10), passed);
    }
}
