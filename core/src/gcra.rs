//! Rate limits: the generic cell rate algorithm, exact to the single call.
//!
//! A bucket holds `burst` calls and is refilled with `limit` calls a `window`. Its only state is
//! the time at which it will be full again, its theoretical arrival time. Times are counted in
//! the limit-th part of a microsecond. A call comes back after `window` of these parts, so
//! nothing is ever rounded.

/// The most calls of a limit or a burst.
pub const MAX_CALLS: u32 = 1_000_000_000;
/// The shortest and the longest window, in microseconds.
pub const MIN_WINDOW: u64 = 1_000;
pub const MAX_WINDOW: u64 = 366 * 86_400 * 1_000_000;

/// So many calls a window, and so many at once. Both are within the bounds above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    limit: u32,
    window: u64,
    burst: u32,
}

impl Rate {
    pub const SLOWEST: Rate = Rate { limit: 1, window: MAX_WINDOW, burst: 1 };

    /// Whether this rate can let more calls pass than another one.
    pub fn exceeds(self, other: Rate) -> bool {
        self.burst > other.burst || self.is_faster(other)
    }

    /// Whether calls come back faster than under another rate.
    fn is_faster(self, other: Rate) -> bool {
        let per_time = |rate: Rate, window: u64| u128::from(rate.limit) * u128::from(window);
        per_time(self, other.window) > per_time(other, self.window)
    }

    /// `None` if a number is out of bounds.
    pub fn new(limit: u32, window: u64, burst: u32) -> Option<Rate> {
        let calls = 1..=MAX_CALLS;
        let fits = calls.contains(&limit)
            && calls.contains(&burst)
            && (MIN_WINDOW..=MAX_WINDOW).contains(&window);
        fits.then_some(Rate { limit, window, burst })
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn window(&self) -> u64 {
        self.window
    }

    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time after which an empty bucket is full again.
    fn whole(&self) -> u128 {
        self.parts(self.burst)
    }

    fn parts(&self, calls: u32) -> u128 {
        u128::from(calls) * u128::from(self.window)
    }

    fn moment(&self, now: u64) -> u128 {
        u128::from(now) * u128::from(self.limit)
    }
}

/// The state of a bucket. If the rate is altered, as many calls stay used as before, even if the
/// new rate allows fewer. So a higher limit helps immediately, and a limit that is lower for a
/// while forgets nothing. Under a lower rate the calls come back as fast as before, until the
/// first call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at: u128,
    rate: Rate,
    /// The time since which it has not been full.
    since: u64,
    /// What was taken from it, at least since then.
    taken: u64,
}

/// A moment of a bucket: that just after a call was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    since: u64,
    taken: u64,
}

/// Whether a call may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Allowed {
        remaining: u32,
    },
    /// The call passes after so many microseconds and no sooner. `None` if it never does,
    /// because it weighs more than the bucket holds.
    Refused {
        remaining: u32,
        retry_after: Option<u64>,
    },
}

impl Bucket {
    /// A bucket that was never used. A bucket that is full again is equal to it.
    pub const fn full(rate: Rate) -> Bucket {
        Bucket { full_at: 0, rate, since: 0, taken: 0 }
    }

    /// Whether the bucket can be forgotten without loss. `now` is in microseconds, of a clock that
    /// never goes back.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= self.rate.moment(now)
    }

    /// The bucket under a rate, which mostly is the one that it has.
    #[inline]
    pub fn at_rate(self, rate: Rate, now: u64) -> Bucket {
        if self.rate == rate {
            return self;
        }
        if self.rate.is_faster(rate) {
            return Bucket { rate: Rate { burst: rate.burst, ..self.rate }, ..self };
        }
        self.converted(rate, now)
    }

    /// The same calls used, counted at another rate from now on.
    fn converted(self, rate: Rate, now: u64) -> Bucket {
        if self.rate == rate {
            return self;
        }
        let used = self.missing(now).saturating_mul(u128::from(rate.window));
        let used = used.div_ceil(u128::from(self.rate.window));
        Bucket { full_at: rate.moment(now).saturating_add(used), rate, ..self }
    }

    /// Whether a call of some weight may pass. It takes nothing.
    pub fn check(&self, now: u64, weight: u32) -> Check {
        let missing = self.missing(now);
        let whole = self.rate.whole();
        let wanted = missing.saturating_add(self.rate.parts(weight));
        let calls = |parts: u128| u32::try_from(parts / u128::from(self.rate.window)).unwrap_or(0);
        match wanted.checked_sub(whole) {
            // A call without weight passes even if the bucket is empty.
            _ if weight == 0 => Check::Allowed { remaining: calls(whole.saturating_sub(missing)) },
            None | Some(0) => Check::Allowed { remaining: calls(whole - wanted) },
            Some(excess) => Check::Refused {
                remaining: calls(whole.saturating_sub(missing)),
                retry_after: (weight <= self.rate.burst).then(|| {
                    let wait = excess.div_ceil(u128::from(self.rate.limit));
                    u64::try_from(wait).unwrap_or(u64::MAX)
                }),
            },
        }
    }

    /// The time until the bucket is full, after so many more calls were taken.
    pub fn reset(&self, now: u64, taken: u32) -> u64 {
        let missing = self.missing(now).saturating_add(self.rate.parts(taken));
        u64::try_from(missing.div_ceil(u128::from(self.rate.limit))).unwrap_or(u64::MAX)
    }

    /// The bucket after a call that was allowed under a rate.
    pub fn taken(self, rate: Rate, now: u64, weight: u32) -> Bucket {
        let before = self.converted(rate, now);
        let from = before.full_at.max(rate.moment(now));
        Bucket {
            full_at: from.saturating_add(rate.parts(weight)),
            since: if before.is_full(now) { now } else { before.since },
            taken: before.taken.saturating_add(u64::from(weight)),
            ..before
        }
    }

    /// The bucket after it was charged for what was used already, even beyond what it holds. Then it
    /// is in debt, and refuses every call until that has come back. The debt is at most ten times what
    /// the bucket holds: so it ends after eleven times the time in which an empty bucket fills.
    /// One that `is_shared` has no debt.
    pub fn charged(self, now: u64, weight: u32, is_shared: bool) -> Bucket {
        const MOST_DEBTS: u128 = 10;
        let debts = if is_shared { 0 } else { MOST_DEBTS };
        let rate = self.rate;
        let most = rate.moment(now).saturating_add(rate.whole().saturating_mul(1 + debts));
        let after = self.taken(rate, now, weight);
        Bucket { full_at: after.full_at.min(most.max(self.full_at)), ..after }
    }

    /// The bucket after a call was given back.
    fn given_back(self, weight: u32) -> Bucket {
        Bucket { full_at: self.full_at.saturating_sub(self.rate.parts(weight)), ..self }
    }

    /// The bucket as it was before its last call was taken, at the same time.
    pub fn untaken(self, weight: u32) -> Bucket {
        let taken = self.taken.saturating_sub(u64::from(weight));
        Bucket { taken, ..self.given_back(weight) }
    }

    /// The moment after the last call was taken.
    pub fn mark(&self) -> Mark {
        Mark { since: self.since, taken: self.taken }
    }

    /// The bucket after a part of an earlier call was given back. Time has refilled some of the call since
    /// then. That is not given back again, or a client could save it for a burst that no limit allows. So as
    /// much stays missing as was taken after the call. If later calls are given back before earlier ones, the
    /// earlier ones may give back less than they could.
    pub fn given_back_since(self, mark: Mark, now: u64, weight: u32) -> Bucket {
        // After it was full, all of the call has been refilled.
        let Some(later) = self.taken.checked_sub(mark.taken).filter(|_| self.since == mark.since)
        else {
            return self;
        };
        let later = u128::from(later).saturating_mul(u128::from(self.rate.window));
        let most = self.missing(now).saturating_sub(later);
        Bucket { full_at: self.full_at - self.rate.parts(weight).min(most), ..self }
    }

    fn missing(&self, now: u64) -> u128 {
        self.full_at.saturating_sub(self.rate.moment(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(limit: u32, window: u64, burst: u32) -> Rate {
        Rate::new(limit, window, burst).unwrap()
    }

    /// The textbook's bucket: it counts calls in window-th parts, and time refills it.
    struct Model {
        rate: Rate,
        level: u128,
        at: u64,
    }

    impl Model {
        fn passes(&mut self, now: u64, weight: u32) -> bool {
            let most = u128::from(self.rate.burst) * u128::from(self.rate.window);
            let refilled = u128::from(now - self.at) * u128::from(self.rate.limit);
            self.level = (self.level + refilled).min(most);
            self.at = now;
            let wanted = u128::from(weight) * u128::from(self.rate.window);
            let passes = wanted <= self.level;
            if passes {
                self.level -= wanted;
            }
            passes
        }
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let calls = || prop_oneof![1u32..20, 1u32..=MAX_CALLS];
        let windows = prop_oneof![MIN_WINDOW..10_000, MIN_WINDOW..=MAX_WINDOW];
        (calls(), windows, calls()).prop_map(|(limit, window, burst)| rate(limit, window, burst))
    }

    /// As the table does, where a limit may have been altered since the last call.
    fn pass_at(bucket: &mut Bucket, rate: Rate, now: u64, weight: u32) -> bool {
        *bucket = bucket.at_rate(rate, now);
        let allowed = matches!(bucket.check(now, weight), Check::Allowed { .. });
        if allowed {
            *bucket = bucket.taken(rate, now, weight);
        }
        allowed
    }

    fn remaining(bucket: Bucket, rate: Rate, now: u64) -> u32 {
        match bucket.at_rate(rate, now).check(now, 0) {
            Check::Allowed { remaining } => remaining,
            Check::Refused { .. } => panic!("refused nothing"),
        }
    }

    fn pass(bucket: &mut Bucket, now: u64, weight: u32) -> bool {
        let allowed = matches!(bucket.check(now, weight), Check::Allowed { .. });
        if allowed {
            *bucket = bucket.taken(bucket.rate, now, weight);
        }
        allowed
    }

    proptest! {
        #[test]
        fn it_is_what_the_model_is(
            rate in rates(),
            start in 0u64..u64::MAX / 4,
            calls in proptest::collection::vec((prop_oneof![0u64..50, 0u64..10_000_000], 0u32..30), 0..100),
        ) {
            let mut bucket = Bucket::full(rate);
            let level = u128::from(rate.burst) * u128::from(rate.window);
            let mut model = Model { rate, level, at: start };
            let mut now = start;
            for (pause, weight) in calls {
                now += pause;
                prop_assert_eq!(pass(&mut bucket, now, weight), model.passes(now, weight));
                let Check::Allowed { remaining } = bucket.check(now, 0) else { panic!("refused nothing") };
                prop_assert_eq!(u128::from(remaining), model.level / u128::from(rate.window));
            }
        }

        #[test]
        fn never_more_than_burst_and_what_came_back(
            rate in rates(),
            pauses in proptest::collection::vec(0u64..3_000, 1..200),
        ) {
            let mut bucket = Bucket::full(rate);
            let (mut now, mut passed) = (7u64, 0u128);
            for pause in &pauses {
                now += pause;
                passed += u128::from(pass(&mut bucket, now, 1));
                let back = u128::from(now - 7) * u128::from(rate.limit) / u128::from(rate.window);
                prop_assert!(passed <= u128::from(rate.burst) + back);
            }
        }

        #[test]
        fn the_wait_is_exact(rate in rates(), now in 0u64..1 << 50, used in 0u32..40, weight in 1u32..40) {
            let mut bucket = Bucket::full(rate);
            for _ in 0..used {
                pass(&mut bucket, now, 1);
            }
            if let Check::Refused { retry_after, .. } = bucket.check(now, weight) {
                prop_assert_eq!(retry_after.is_none(), weight > rate.burst);
                if let Some(wait) = retry_after {
                    let allowed = |moment| matches!(bucket.check(moment, weight), Check::Allowed { .. });
                    prop_assert!(wait > 0 && allowed(now + wait));
                    prop_assert!(!allowed(now + wait - 1));
                }
            }
        }

        #[test]
        fn it_is_full_at_the_reset(rate in rates(), now in 0u64..1 << 50, used in 0u32..40) {
            let mut bucket = Bucket::full(rate);
            for _ in 0..used {
                pass(&mut bucket, now, 1);
            }
            let reset = bucket.reset(now, 0);
            prop_assert!(bucket.is_full(now + reset));
            prop_assert!(reset == 0 || !bucket.is_full(now + reset - 1));
            if let Check::Allowed { .. } = bucket.check(now, 3) {
                prop_assert_eq!(bucket.reset(now, 3), bucket.taken(rate, now, 3).reset(now, 0));
            }
        }

        #[test]
        fn what_is_given_back_is_there_again(rate in rates(), now in 0u64..1 << 50, used in 0u32..30, weight in 0u32..30) {
            let mut bucket = Bucket::full(rate);
            for _ in 0..used {
                pass(&mut bucket, now, 1);
            }
            let before = bucket;
            if pass(&mut bucket, now, weight) {
                let after = bucket.given_back(weight);
                prop_assert_eq!(after.check(now, 1), before.check(now, 1));
            }
        }

        /// Neither from calls, nor from what earlier calls may give back.
        #[test]
        fn what_is_untaken_takes_nothing(
            rate in rates(), now in 0u64..1 << 50, used in 1u32..30, pause in 0u64..10_000_000, weight in 0u32..30,
        ) {
            let mut bucket = Bucket::full(rate);
            pass(&mut bucket, now, used);
            let (mark, now) = (bucket.mark(), now + pause);
            let after = bucket.taken(rate, now, weight).untaken(weight);
            let given_back = |bucket: Bucket| bucket.given_back_since(mark, now, used).check(now, 1);
            prop_assert_eq!(given_back(after), given_back(bucket));
            prop_assert_eq!(after.check(now, 1), bucket.check(now, 1));
        }

        #[test]
        fn what_is_charged_comes_back_and_debts_end(
            rate in rates(), now in 0u64..1 << 50, used in 0u32..30, charged in proptest::collection::vec(any::<u32>(), 0..5),
        ) {
            let mut bucket = Bucket::full(rate);
            for _ in 0..used {
                pass(&mut bucket, now, 1);
            }
            for weight in charged {
                let before = bucket.missing(now);
                bucket = bucket.charged(now, weight, false);
                let most = 11 * rate.whole();
                prop_assert_eq!(bucket.missing(now), (before + rate.parts(weight)).min(most));
            }
            if let Check::Refused { remaining, retry_after: Some(wait @ ..0x1000_0000_0000_0000) } = bucket.check(now, 1) {
                prop_assert!(remaining == 0);
                let allowed = |moment| matches!(bucket.check(moment, 1), Check::Allowed { .. });
                prop_assert!(allowed(now + wait) && !allowed(now + wait - 1));
            }
            let free = matches!(bucket.check(now, 0), Check::Allowed { .. });
            prop_assert!(free);
        }

        /// Requests really use no more than the rate allows in any span of time, whenever and in whatever
        /// order they are settled. A later charge comes on top of that.
        #[test]
        fn what_was_really_used_stays_within_the_rate(
            burst in 1u32..100, limit in 1u32..10,
            steps in proptest::collection::vec(
                (0u64..2_000, prop_oneof![1u32..4, 0u32..40], 0usize..8, 0u32..110), 1..150,
            ),
        ) {
            let rate = rate(limit, 1_000, burst);
            let mut bucket = Bucket::full(rate);
            let mut now = 7u64;
            let (mut held, mut used) = (Vec::new(), Vec::<(u64, u64)>::new());
            for (pause, weight, which, percent) in steps {
                // Often nothing happens between. A bucket that was full forgets what was taken, and one in debt
                // lets nothing pass, so both are rare.
                now += pause.saturating_sub(1_000);
                if pass(&mut bucket, now, weight) {
                    held.push((used.len(), weight, bucket.mark()));
                    used.push((now, u64::from(weight)));
                }
                if which < held.len() {
                    let (n, weight, mark) = held.remove(which);
                    let cost = (weight * percent).div_ceil(100);
                    bucket = match cost.checked_sub(weight) {
                        None => {
                            used[n].1 = u64::from(cost);
                            bucket.given_back_since(mark, now, weight - cost)
                        }
                        Some(more) => bucket.charged(now, more, false),
                    };
                }
            }
            for (n, (start, _)) in used.iter().enumerate() {
                let mut passed = 0;
                for (at, weight) in used.iter().skip(n) {
                    passed += weight;
                    let back = (at - start) * u64::from(limit) / 1_000;
                    prop_assert!(passed <= u64::from(burst) + back);
                }
            }
        }

        /// Neither panics nor opens, whatever the clock and the rates do.
        #[test]
        fn odd_clocks_do_not_open(
            rate in rates(),
            clock in proptest::collection::vec(prop_oneof![any::<u64>(), 0u64..10_000], 1..60),
        ) {
            let mut bucket = Bucket::full(rate);
            let (mut earliest, mut latest, mut passed) = (u64::MAX, 0u64, 0u128);
            for now in clock {
                earliest = earliest.min(now);
                latest = latest.max(now);
                passed += u128::from(pass(&mut bucket, now, 1));
                let back = u128::from(latest - earliest) * u128::from(rate.limit) / u128::from(rate.window);
                prop_assert!(passed <= u128::from(rate.burst) + back);
            }
        }

        #[test]
        fn a_rate_that_changes_never_gives_more_than_it_has(
            old in rates(), new in rates(), now in 0u64..1 << 50, used in 0u32..40,
        ) {
            let mut bucket = Bucket::full(old);
            let mut passed = 0;
            for _ in 0..used {
                passed += u32::from(pass(&mut bucket, now, 1));
            }
            prop_assert_eq!(remaining(bucket, new, now), new.burst.saturating_sub(passed));
        }

        #[test]
        fn what_was_used_stays_used_whatever_the_rate_was_meanwhile(
            rate in rates(), meanwhile in proptest::collection::vec(rates(), 0..6),
            now in 0u64..1 << 50, used in 0u32..40,
        ) {
            let mut bucket = Bucket::full(rate);
            let mut passed = 0;
            for _ in 0..used {
                passed += u32::from(pass(&mut bucket, now, 1));
            }
            for other in meanwhile {
                passed += u32::from(pass_at(&mut bucket, other, now, 1));
            }
            prop_assert_eq!(remaining(bucket, rate, now), rate.burst.saturating_sub(passed));
        }

        #[test]
        fn rates_that_change_let_through_no_more_than_the_highest_of_them(
            rates in proptest::collection::vec(rates(), 1..5),
            calls in proptest::collection::vec((0u64..100_000, 0usize..5, 0u32..4), 1..200),
        ) {
            let mut bucket = Bucket::full(rates[0]);
            let (mut now, mut passed) = (9u64, 0u128);
            let fastest = rates.iter().copied().reduce(|a, b| if b.is_faster(a) { b } else { a }).unwrap();
            let burst = rates.iter().map(|rate| rate.burst).max().unwrap();
            for (pause, which, weight) in calls {
                now += pause;
                let rate = rates[which % rates.len()];
                if pass_at(&mut bucket, rate, now, weight) {
                    passed += u128::from(weight);
                }
                let back = u128::from(now - 9) * u128::from(fastest.limit) / u128::from(fastest.window);
                prop_assert!(passed <= u128::from(burst) + back);
            }
        }

        /// Calls that were used under a higher rate come back in the end, and the wait in the
        /// answer is exact, however often a caller tries meanwhile.
        #[test]
        fn the_wait_is_exact_after_a_change(
            old in rates(), new in rates(), now in 0u64..1 << 50, used in 0u32..40, weight in 1u32..40,
            tries in 0u64..5,
        ) {
            let mut bucket = Bucket::full(old);
            for _ in 0..used {
                pass(&mut bucket, now, 1);
            }
            let check = |bucket: Bucket, moment| bucket.at_rate(new, moment).check(moment, weight);
            if let Check::Refused { retry_after: Some(wait), .. } = check(bucket, now) {
                bucket = bucket.at_rate(new, now);
                for n in 0..tries {
                    let moment = now + wait / (tries + 1) * n;
                    prop_assert!(!pass_at(&mut bucket, new, moment, weight));
                }
                let allowed = |moment| matches!(check(bucket, moment), Check::Allowed { .. });
                prop_assert!(allowed(now + wait) && !allowed(now + wait - 1));
            }
        }
    }

    #[test]
    fn three_a_second_are_three_a_second() {
        let mut bucket = Bucket::full(rate(3, 1_000_000, 3));
        for _ in 0..3 {
            assert!(pass(&mut bucket, 5, 1));
        }
        let refused = Check::Refused { remaining: 0, retry_after: Some(333_334) };
        assert_eq!(bucket.check(5, 1), refused);
        // After a whole window, all three are back, and not one more.
        for _ in 0..3 {
            assert!(pass(&mut bucket, 1_000_005, 1));
        }
        assert_eq!(bucket.check(1_000_005, 1), refused);
    }

    fn held(bucket: &mut Bucket, now: u64, weight: u32) -> Mark {
        assert!(pass(bucket, now, weight));
        bucket.mark()
    }

    #[test]
    fn what_time_has_refilled_is_not_given_back_again() {
        let rate = rate(1_000, 5_000_000, 1_000);
        let mut bucket = Bucket::full(rate);
        let marks = [0, 5, 10, 15].map(|second| held(&mut bucket, second * 1_000_000, 1_000));
        let now = 20_000_000;
        assert!(pass(&mut bucket, now, 1_000));
        for mark in marks {
            bucket = bucket.given_back_since(mark, now, 1_000);
            assert!(!pass(&mut bucket, now, 1));
        }
    }

    #[test]
    fn calls_at_the_same_time_give_back_what_they_did_not_use() {
        let rate = rate(10_000, 60_000_000, 10_000);
        let settled = |order: &mut dyn Iterator<Item = usize>| {
            let mut bucket = Bucket::full(rate);
            let marks: Vec<Mark> = (0..10).map(|_| held(&mut bucket, 0, 1_000)).collect();
            for n in order {
                bucket = bucket.given_back_since(marks[n], 6_000_000, 900);
            }
            remaining(bucket, rate, 6_000_000)
        };
        assert_eq!(settled(&mut (0..10)), 9_100);
        assert_eq!(settled(&mut (0..10).rev()), 5_500);
    }

    #[test]
    fn a_call_that_weighs_more_than_the_bucket_never_passes() {
        let bucket = Bucket::full(rate(5, 1_000, 2));
        assert_eq!(bucket.check(0, 3), Check::Refused { remaining: 2, retry_after: None });
        assert_eq!(bucket.check(0, u32::MAX), Check::Refused { remaining: 2, retry_after: None });
        assert_eq!(bucket.check(0, 2), Check::Allowed { remaining: 0 });
    }

    #[test]
    fn bounds() {
        assert!(Rate::new(0, 1_000, 1).is_none());
        assert!(Rate::new(1, 999, 1).is_none());
        assert!(Rate::new(1, MAX_WINDOW + 1, 1).is_none());
        assert!(Rate::new(1, 1_000, 0).is_none());
        assert!(Rate::new(MAX_CALLS + 1, 1_000, 1).is_none());
        assert!(Rate::new(1, 1_000, MAX_CALLS + 1).is_none());
        assert!(Rate::new(MAX_CALLS, MAX_WINDOW, MAX_CALLS).is_some());
    }

    #[test]
    fn full_again_equals_never_used() {
        let mut bucket = Bucket::full(rate(1, 1_000, 1));
        assert!(bucket.is_full(0));
        assert!(pass(&mut bucket, 10, 1));
        assert!(!bucket.is_full(10) && !bucket.is_full(1_009));
        assert!(bucket.is_full(1_010));
    }
}
