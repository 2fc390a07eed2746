//! How a decision takes what it counts for from all of its limits, or from none.
//!
//! The buckets are in parts with a lock each. All parts of a decision are locked before any
//! bucket is looked at. So the counts are exact, however many sessions call at the same time.

use crate::buckets::{Owner, Part, is_shared};
use crate::gcra::{Bucket, Check, Mark, Rate};
use std::ops::DerefMut;

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So much in a window of time.
    Rate(Rate),
    /// So many transactions at once.
    Concurrent(u32),
}

impl Bound {
    pub fn limit(self) -> u32 {
        match self {
            Bound::Rate(rate) => rate.limit(),
            Bound::Concurrent(limit) => limit,
        }
    }

    /// The length of the window, in microseconds.
    pub fn window(self) -> Option<u64> {
        match self {
            Bound::Rate(rate) => Some(rate.window()),
            Bound::Concurrent(_) => None,
        }
    }

    /// Whether it can let more pass than another one, or counts something else.
    pub fn exceeds(self, other: Bound) -> bool {
        match (self, other) {
            (Bound::Rate(rate), Bound::Rate(other)) => rate.exceeds(other),
            (Bound::Concurrent(limit), Bound::Concurrent(other)) => limit > other,
            _ => true,
        }
    }
}

/// A rate limit that a decision is held to.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    pub name: &'a [u8],
    pub unit: &'a [u8],
    pub rate: Rate,
    /// How much of the unit the request counts for.
    pub weight: u32,
    /// The name of its bucket.
    pub bucket: u128,
    /// The owner of the bucket.
    pub owner: Owner,
    /// The moment of the bucket after `take`, if it has a place.
    pub mark: Option<Mark>,
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
    pub unit: &'a [u8],
    pub bound: Bound,
    /// How much of the unit the request counts for.
    pub weight: u32,
    pub remaining: u32,
    /// After how many microseconds nothing is missing, if no other request comes; `None` if that is
    /// not known.
    pub reset: Option<u64>,
}

impl Left<'_> {
    /// Whether it would be used up sooner than another one by requests like this one. A limit of a
    /// unit that the request does not count for comes last.
    pub fn is_tighter(&self, other: &Left) -> bool {
        match (self.weight, other.weight) {
            (0, 0) => self.remaining < other.remaining,
            (mine, others) => {
                let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
                mine != 0
                    && (others == 0
                        || product(self.remaining, others) < product(other.remaining, mine))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// The limit that requests like this one use up first.
    Passed(Left<'a>),
    /// The limit that refuses for the longest time, and after how many microseconds it will
    /// not.
    Refused { limit: Left<'a>, retry_after: Option<u64> },
    /// The calls can't be counted: there is no room, or no table.
    Unavailable,
}

/// The claims of a decision, and their parts. `G` keeps a part locked.
pub struct LockedParts<'c, 'a, G> {
    claims: &'c mut [Claim<'a>],
    locked: Parts<G>,
}

/// The parts that are locked, with their numbers.
struct Parts<G> {
    parts: usize,
    /// Most decisions have one limit. Then no memory is asked for.
    first: Option<(usize, G)>,
    others: Vec<(usize, Option<G>)>,
}

impl<'c, 'a, G: DerefMut<Target = Part>> LockedParts<'c, 'a, G> {
    /// Locks the parts in the order of their numbers, so that sessions don't wait in a circle.
    /// A decision has far fewer limits than PostgreSQL lets a session have locks.
    #[inline]
    pub fn all(
        claims: &'c mut [Claim<'a>],
        parts: usize,
        lock: impl Fn(usize) -> Option<G>,
    ) -> LockedParts<'c, 'a, G> {
        let mut locked = Parts { parts, first: None, others: Vec::new() };
        if let [claim] = claims {
            let n = claim.part(parts);
            locked.first = lock(n).map(|part| (n, part));
        } else {
            let others = &mut locked.others;
            others.extend(claims.iter().map(|claim| (claim.part(parts), None)));
            others.sort_unstable_by_key(|(n, _)| *n);
            others.dedup_by_key(|(n, _)| *n);
            others.iter_mut().for_each(|(n, part)| *part = lock(*n));
        }
        LockedParts { claims, locked }
    }

    /// Takes the weight of each claim from its limit, or nothing from any. It asks for no memory,
    /// and can't fail: sessions wait for the locks.
    pub fn take(&mut self, now: u64) -> Admission<'a> {
        let outcome = self.look(now);
        if matches!(outcome, Admission::Passed { .. }) {
            let LockedParts { claims, locked } = self;
            if let Some(n) = claims.iter_mut().position(|claim| !locked.take(claim, now)) {
                claims.iter().take(n).for_each(|claim| locked.put_back(claim, now));
                return Admission::Unavailable;
            }
        }
        outcome
    }

    /// Gives back what `take` took.
    pub fn give_back(&mut self, now: u64) {
        for claim in self.claims.iter().filter(|claim| claim.weight != 0) {
            let part = self.locked.part(claim);
            if let Some(bucket) = part.find(claim.bucket) {
                let bucket = bucket.at_rate(claim.rate, now);
                // Time has refilled some of it, which does not come back.
                let bucket = claim
                    .mark
                    .map_or(bucket, |mark| bucket.given_back_since(mark, now, claim.weight));
                part.put(claim.bucket, bucket, claim.owner, now);
            }
        }
    }

    /// Charges what a request used beyond what was taken, or gives back what it did not use, after it
    /// was let through. False if there is no room for a bucket.
    pub fn settle(&mut self, now: u64, difference: i64) -> bool {
        let amount = u32::try_from(difference.unsigned_abs()).unwrap_or(u32::MAX);
        if amount == 0 {
            return true;
        }
        let mut is_settled = true;
        for claim in self.claims.iter() {
            let part = self.locked.part(claim);
            let before = part.find(claim.bucket);
            // The limit may have been altered: a bucket keeps the rate that it has now.
            let bucket = before.unwrap_or(Bucket::full(claim.rate));
            let after = match (bucket, claim.mark) {
                // Nobody pays for the debt of another tenant.
                (bucket, _) if difference > 0 => {
                    bucket.charged(now, amount, is_shared(claim.owner))
                }
                (bucket, Some(mark)) if before.is_some() => {
                    bucket.given_back_since(mark, now, amount)
                }
                // A bucket without a place is full.
                _ => continue,
            };
            is_settled &= part.put(claim.bucket, after, claim.owner, now);
        }
        is_settled
    }

    /// Takes nothing, and returns the answer of `take`, except that there may be no room. If
    /// several limits refuse, the answer names the one that does so for the longest time: no
    /// limit refuses a call after that.
    pub fn look(&mut self, now: u64) -> Admission<'a> {
        let mut passed: Option<Left> = None;
        let mut refused: Option<(Left, Option<u64>)> = None;
        for claim in self.claims.iter() {
            let part = self.locked.part(claim);
            let before = part.find(claim.bucket);
            let bucket = at_rate(before, claim, now);
            let left = |remaining, taken| Left {
                name: claim.name,
                unit: claim.unit,
                bound: Bound::Rate(claim.rate),
                weight: claim.weight,
                remaining,
                reset: Some(bucket.reset(now, taken)),
            };
            match bucket.check(now, claim.weight) {
                Check::Allowed { remaining } => {
                    let left = left(remaining, claim.weight);
                    if passed.is_none_or(|tightest| left.is_tighter(&tightest)) {
                        passed = Some(left);
                    }
                }
                Check::Refused { remaining, retry_after } => {
                    let longest = refused.map_or(0, |(_, wait)| wait.unwrap_or(u64::MAX));
                    if refused.is_none() || retry_after.unwrap_or(u64::MAX) > longest {
                        refused = Some((left(remaining, 0), retry_after));
                    }
                    // A limit that was altered counts from here on as it is now.
                    if before.is_some() {
                        part.put(claim.bucket, bucket, claim.owner, now);
                    }
                }
            }
        }
        match (refused, passed) {
            (Some((limit, retry_after)), _) => Admission::Refused { limit, retry_after },
            (None, Some(limit)) => Admission::Passed(limit),
            (None, None) => Admission::Unavailable,
        }
    }
}

impl<G: DerefMut<Target = Part>> Parts<G> {
    /// False if there is no room for the bucket.
    fn take(&mut self, claim: &mut Claim, now: u64) -> bool {
        let part = self.part(claim);
        let before = part.find(claim.bucket);
        if claim.weight == 0 {
            claim.mark = before.map(|bucket| bucket.mark());
            return true;
        }
        let after = at_rate(before, claim, now).taken(claim.rate, now, claim.weight);
        claim.mark = Some(after.mark());
        part.put(claim.bucket, after, claim.owner, now)
    }

    /// Undoes what `take` did.
    fn put_back(&mut self, claim: &Claim, now: u64) {
        let part = self.part(claim);
        if let Some(bucket) = part.find(claim.bucket).filter(|_| claim.weight != 0) {
            part.put(claim.bucket, bucket.untaken(claim.weight), claim.owner, now);
        }
    }

    fn part(&mut self, claim: &Claim) -> &mut Part {
        let n = claim.part(self.parts);
        if let Some((_, part)) = self.first.as_mut().filter(|(first, _)| *first == n) {
            return part;
        }
        match self.others.iter_mut().find(|(other, _)| *other == n) {
            Some((_, Some(part))) => part,
            _ => unreachable!("the part of a claim is locked with all others"),
        }
    }
}

fn at_rate(bucket: Option<Bucket>, claim: &Claim, now: u64) -> Bucket {
    bucket.map_or(Bucket::full(claim.rate), |bucket| bucket.at_rate(claim.rate, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buckets::{NOBODY, crowd_of, shared};
    use crate::policy::weights::CALLS;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// A claim on a bucket of a part that refills a call a second.
    fn claim(part: u128, bucket: u128, burst: u32) -> Claim<'static> {
        let rate = Rate::new(1, 1_000_000, burst).unwrap();
        Claim {
            name: b"name",
            unit: CALLS,
            rate,
            weight: 1,
            bucket: part << 64 | bucket,
            owner: bucket as Owner,
            mark: None,
        }
    }

    fn take(parts: &[RefCell<Part>], claims: &[Claim<'static>], now: u64) -> Admission<'static> {
        with(parts, &mut claims.to_vec(), |parts| parts.take(now))
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
        let left = |name, rate, remaining, reset| Left {
            name,
            unit: CALLS,
            bound: Bound::Rate(rate),
            weight: 1,
            remaining,
            reset: Some(reset),
        };
        let limit = left(b"two", claims[1].rate, 0, 999_995);
        let refused = Admission::Refused { limit, retry_after: Some(999_995) };
        assert_eq!(take(&parts, &claims, 10), refused);
        let passed = Admission::Passed(left(b"six", claims[2].rate, 8, 1_000_000));
        assert_eq!(take(&parts, &claims[2..], 10), passed);
    }

    fn of(unit: &'static [u8], weight: u32, bucket: u128, burst: u32) -> Claim<'static> {
        Claim { name: unit, unit, weight, ..claim(bucket % 2, bucket, burst) }
    }

    fn with<T>(
        parts: &[RefCell<Part>],
        claims: &mut [Claim<'static>],
        body: impl FnOnce(&mut LockedParts<'_, 'static, std::cell::RefMut<'_, Part>>) -> T,
    ) -> T {
        let lock = |n: usize| parts.get(n).map(RefCell::borrow_mut);
        body(&mut LockedParts::all(claims, parts.len(), lock))
    }

    #[test]
    fn each_claim_takes_its_own_weight_and_all_are_taken_or_none() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        let asked = |calls, tokens| [of(CALLS, calls, 1, 10), of(b"tokens", tokens, 2, 1000)];
        let left = |outcome| match outcome {
            Admission::Passed(left) => (true, left.name, left.remaining),
            Admission::Refused { limit, .. } => (false, limit.name, limit.remaining),
            Admission::Unavailable => (false, &b""[..], 0),
        };
        // Requests like this one use up the tokens first.
        assert_eq!(left(take(&parts, &asked(1, 600), 0)), (true, &b"tokens"[..], 400));
        assert_eq!(left(take(&parts, &asked(1, 600), 0)), (false, &b"tokens"[..], 400));
        assert_eq!(left(take(&parts, &asked(1, 0), 0)), (true, CALLS, 8));
        assert_eq!(left(take(&parts, &asked(0, 400), 0)), (true, &b"tokens"[..], 0));
        // What a request does not count for does not refuse it.
        assert_eq!(left(take(&parts, &asked(8, 0), 0)), (true, CALLS, 0));
        assert_eq!(left(take(&parts, &asked(0, 0), 0)), (true, CALLS, 0));
        let Admission::Refused { retry_after, limit } = take(&parts, &asked(0, 1001), 0) else {
            panic!()
        };
        assert_eq!((retry_after, limit.unit), (None, &b"tokens"[..]));
    }

    fn settle(parts: &[RefCell<Part>], claims: &[Claim<'static>], difference: i64) -> bool {
        let tokens = claims.iter().filter(|claim| claim.unit == b"tokens");
        let mut tokens: Vec<_> = tokens.copied().collect();
        for claim in &mut tokens {
            let part = parts[claim.part(parts.len())].borrow();
            claim.mark = part.find(claim.bucket).map(|bucket| bucket.mark());
        }
        with(parts, &mut tokens, |parts| parts.settle(0, difference))
    }

    #[test]
    fn debt_refuses_those_who_count_for_the_unit_until_it_is_gone() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        let asked = |calls, tokens| [of(CALLS, calls, 1, 10), of(b"tokens", tokens, 2, 5)];
        assert!(settle(&parts, &asked(1, 1), 8));
        let Admission::Refused { limit, retry_after } = take(&parts, &asked(1, 1), 0) else {
            panic!()
        };
        assert_eq!((limit.remaining, retry_after), (0, Some(4_000_000)));
        assert!(matches!(take(&parts, &asked(1, 0), 0), Admission::Passed { .. }));
        assert!(settle(&parts, &asked(1, 1), -4));
        assert!(matches!(take(&parts, &asked(1, 1), 0), Admission::Passed { .. }));
        assert!(matches!(take(&parts, &asked(1, 1), 0), Admission::Refused { .. }));
        // Nothing makes a bucket hold more than it does.
        assert!(settle(&parts, &asked(1, 1), i64::MIN));
        assert!(matches!(take(&parts, &asked(1, 6), 0), Admission::Refused { .. }));
        assert!(matches!(take(&parts, &asked(1, 5), 0), Admission::Passed { .. }));
    }

    #[test]
    fn a_bucket_that_tenants_share_has_no_debt() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        for (bucket, owner) in [(1, NOBODY), (2, shared(crowd_of(7)))] {
            let shared = [Claim { owner, ..of(b"tokens", 1, bucket, 5) }];
            assert!(matches!(take(&parts, &shared, 0), Admission::Passed { .. }));
            assert!(settle(&parts, &shared, 1_000_000_000));
            assert!(matches!(take(&parts, &shared, 999_999), Admission::Refused { .. }));
            assert!(matches!(take(&parts, &shared, 1_000_000), Admission::Passed { .. }));
        }
    }

    #[test]
    fn what_time_has_refilled_is_not_given_back() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        let rate = Rate::new(1, 1_000_000, 5).unwrap();
        let of = |weight| [Claim { rate, weight, ..of(b"tokens", 1, 1, 5) }];
        let mut waiting = of(5);
        with(&parts, &mut waiting, |parts| parts.take(0));
        // Others take what is refilled while the decision waits.
        assert!(matches!(take(&parts, &of(5), 5_000_000), Admission::Passed { .. }));
        with(&parts, &mut waiting, |parts| parts.give_back(5_000_000));
        assert!(matches!(take(&parts, &of(1), 5_000_000), Admission::Refused { .. }));
        // Nothing was refilled.
        let mut refused = of(5);
        with(&parts, &mut refused, |parts| parts.take(10_000_000));
        with(&parts, &mut refused, |parts| parts.give_back(10_000_000));
        assert!(matches!(take(&parts, &of(5), 10_000_000), Admission::Passed { .. }));
    }

    #[test]
    fn settling_does_not_bring_back_a_rate_that_was_lowered() {
        let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
        let at = |limit, window| {
            let rate = Rate::new(limit, window, 1_000).unwrap();
            [Claim { rate, weight: 1_000, ..of(b"tokens", 1_000, 1, 1) }]
        };
        let (mut fast, slow) = (at(1_000, 1_000_000), at(1_000, 86_400_000_000));
        let outcome = with(&parts, &mut fast, |parts| parts.take(0));
        assert!(matches!(outcome, Admission::Passed { .. }));
        assert!(matches!(take(&parts, &slow, 1_000_000), Admission::Passed { .. }));
        for (second, difference) in [(2, 1), (4, 1), (6, -1), (8, 1)] {
            let now = second * 1_000_000;
            assert!(with(&parts, &mut fast, |parts| parts.settle(now, difference)));
            let outcome = take(&parts, &slow, now + 1_500_000);
            assert!(matches!(outcome, Admission::Refused { .. }), "{second}");
        }
    }

    proptest! {
        /// Two units, and requests that count for one, both or none.
        #[test]
        fn no_unit_gives_more_than_it_has(
            requests in proptest::collection::vec((0u64..600_000, 0u32..4, 0u32..9), 1..200),
        ) {
            let parts = [4, 4].map(|capacity| RefCell::new(Part::new(capacity)));
            let (mut now, mut taken) = (5, [0u64; 2]);
            for (pause, calls, tokens) in requests {
                now += pause;
                let claims = [of(CALLS, calls, 1, 6), of(b"tokens", tokens, 2, 20)];
                let outcome = take(&parts, &claims, now);
                let fits = |unit: usize, burst: u64, weight| {
                    weight == 0 || taken[unit] + u64::from(weight) <= burst + (now - 5) / 1_000_000
                };
                if matches!(outcome, Admission::Passed { .. }) {
                    prop_assert!(fits(0, 6, calls) && fits(1, 20, tokens));
                    taken[0] += u64::from(calls);
                    taken[1] += u64::from(tokens);
                }
            }
        }
    }
}
