//! Credits are refilled at the beginning of each hour, day, week or month. Periods are those of UTC, or
//! begin with an anchor.

/// Microseconds since 2000-01-01 00:00 UTC, as PostgreSQL counts them.
pub type Instant = i64;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// A wait that takes longer is told as one without an end.
const LONGEST_WAIT: i64 = 36_500 * DAY;
/// 2000-01-03, a Monday.
const MONDAY: i64 = 2 * DAY;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    Hour,
    Day,
    Week,
    Month,
}

impl Every {
    pub const NAMES: [&'static str; 4] = ["hour", "day", "week", "month"];

    pub fn parse(name: &[u8]) -> Option<Every> {
        match name {
            b"hour" => Some(Every::Hour),
            b"day" => Some(Every::Day),
            b"week" => Some(Every::Week),
            b"month" => Some(Every::Month),
            _ => None,
        }
    }

    /// The beginning of the period that contains a moment.
    pub fn begin(self, now: Instant) -> Instant {
        Period { every: self, anchor: None }.begin(now)
    }

    /// The beginning of the next period.
    pub fn next(self, now: Instant) -> Instant {
        Period { every: self, anchor: None }.next(now)
    }
}

/// How often credits are refilled, and from when on that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub every: Every,
    /// A moment when a period begins. Without it, periods begin when those of the calendar do.
    pub anchor: Option<Instant>,
}

impl Period {
    pub fn begin(self, now: Instant) -> Instant {
        self.start(self.number(now))
    }

    pub fn next(self, now: Instant) -> Instant {
        self.start(self.number(now).saturating_add(1))
    }

    /// The number of the period that contains a moment. They are counted without gaps.
    fn number(self, now: Instant) -> i64 {
        let Some(length) = self.length() else {
            let month = Date::of(now.div_euclid(DAY)).month;
            return if self.start(month) > now { month - 1 } else { month };
        };
        // The remainders are subtracted first: a difference of two moments may be too large.
        let offset = self.offset(length);
        now.div_euclid(length) - i64::from(now.rem_euclid(length) < offset)
    }

    /// The moment when a period begins.
    fn start(self, number: i64) -> Instant {
        if let Some(length) = self.length() {
            return number.saturating_mul(length).saturating_add(self.offset(length));
        }
        let anchor = self.anchor.unwrap_or(0);
        let (first, next) = (first_day(number), first_day(number.saturating_add(1)));
        // A month that lacks the day of the anchor begins with its own last day.
        let day = (Date::of(anchor.div_euclid(DAY)).day - 1).min(next - first - 1);
        (first + day).saturating_mul(DAY).saturating_add(anchor.rem_euclid(DAY))
    }

    /// How long each period is; `None` for months.
    fn length(self) -> Option<i64> {
        match self.every {
            Every::Hour => Some(HOUR),
            Every::Day => Some(DAY),
            Every::Week => Some(WEEK),
            Every::Month => None,
        }
    }

    fn offset(self, length: i64) -> i64 {
        self.anchor.unwrap_or(MONDAY).rem_euclid(length)
    }
}

/// The credits of a key or tenant, as they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Credits {
    /// Less than 0 if requests cost more than was known before.
    pub balance: i64,
    /// A refill raises the balance to this, unless it is higher. Debts are paid from it.
    pub refill: Option<i64>,
    pub period: Option<Period>,
    pub refilled_at: Instant,
}

impl Credits {
    /// The balance and the time of the last refill, at a moment. A refill that is due is included.
    pub fn at(&self, now: Instant) -> (i64, Instant) {
        match (self.refill, self.due(now)) {
            (Some(refill), 1..) if self.balance >= 0 => (self.balance.max(refill), now),
            // Each period since then pays off as much as it gives.
            (Some(refill), periods @ 1..) => {
                let paid = refill.saturating_mul(periods);
                (self.balance.saturating_add(paid).min(refill), now)
            }
            _ => (self.balance, self.refilled_at),
        }
    }

    /// The time until refills suffice for a request, if none comes before it; `None` if they never do,
    /// or only after a hundred years.
    pub fn wait(&self, spend: i64, now: Instant) -> Option<i64> {
        let (balance, _) = self.at(now);
        let refill = self.refill.filter(|refill| *refill >= spend && *refill > 0)?;
        let period = self.period?;
        let periods = match balance {
            0.. => 1,
            // Both are positive, so the sum is no less than their difference.
            debt => ratio(spend.saturating_sub(debt), refill),
        };
        // No period is shorter than an hour. So what follows is in the range of moments.
        if periods > LONGEST_WAIT / HOUR {
            return None;
        }
        let then = period.start(period.number(now).saturating_add(periods));
        Some(then.saturating_sub(now)).filter(|wait| then < Instant::MAX && *wait <= LONGEST_WAIT)
    }

    /// How many periods have begun since the last refill. A last refill that is more than a day
    /// ahead comes from a clock that was wrong. It must not stop refills until then.
    fn due(&self, now: Instant) -> i64 {
        let Some(period) = self.period else { return 0 };
        if self.refilled_at > now.saturating_add(DAY) {
            return 1;
        }
        period.number(now).saturating_sub(period.number(self.refilled_at)).max(0)
    }
}

/// What a change of a balance is an event of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    /// It went from above the threshold to it, or below.
    pub low: bool,
    /// It went from above 0 to 0, or below.
    pub exhausted: bool,
}

impl Crossing {
    pub fn of(before: i64, after: i64, low: Option<i64>) -> Crossing {
        let crosses = |threshold| before > threshold && after <= threshold;
        Crossing { low: low.is_some_and(crosses), exhausted: crosses(0) }
    }

    /// These events but those that were made already.
    pub fn without(self, made: Crossing) -> Crossing {
        Crossing { low: self.low && !made.low, exhausted: self.exhausted && !made.exhausted }
    }

    /// The events of both.
    pub fn with(self, other: Crossing) -> Crossing {
        Crossing { low: self.low || other.low, exhausted: self.exhausted || other.exhausted }
    }
}

/// The least number of parts that make up a whole. Both are positive.
fn ratio(whole: i64, part: i64) -> i64 {
    whole / part + i64::from(whole % part > 0)
}

/// A month, counted from January 2000, and a day of it, counted from 1.
struct Date {
    month: i64,
    day: i64,
}

impl Date {
    /// The date of a day that is counted from 2000-01-01.
    fn of(day: i64) -> Date {
        // Years are counted from March, so that a leap day is the last day of a year.
        let day = day - 60;
        let (era, in_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
        let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
        let in_year = in_era - (365 * year + year / 4 - year / 100);
        let month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * month + 2) / 5 + 1;
        Date { month: (era * 400 + year) * 12 + month + 2, day }
    }
}

/// The first day of a month, counted from 2000-01-01. Months are counted from January 2000.
fn first_day(month: i64) -> i64 {
    let month = month.saturating_sub(2);
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12));
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    era.saturating_mul(146_097) + 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + 60
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Every; 4] = [Every::Hour, Every::Day, Every::Week, Every::Month];

    /// The days of each month, from a year on.
    fn lengths(from: i64) -> impl Iterator<Item = i64> {
        (from..).flat_map(|year| {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        })
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let mut start = 0;
        for (month, length) in (0..).zip(lengths(2000).take(12 * 500)) {
            assert_eq!(first_day(month), start);
            for now in [start, start + 1, start + length / 2, start + length - 1] {
                for moment in [now * DAY, now * DAY + DAY - 1] {
                    assert_eq!(Every::Month.begin(moment), start * DAY);
                    assert_eq!(Every::Month.next(moment), (start + length) * DAY);
                }
            }
            start += length;
        }
    }

    #[test]
    fn a_month_begins_with_the_day_of_its_anchor_or_its_last() {
        // 2000-01-31 18:30.
        let time = 18 * HOUR + HOUR / 2;
        let period = Period { every: Every::Month, anchor: Some(30 * DAY + time) };
        let (mut start, mut last) = (0, None);
        for length in lengths(2000).take(12 * 500) {
            let begins = (start + 30.min(length - 1)) * DAY + time;
            assert_eq!(period.begin(begins), begins);
            assert_eq!(period.begin(begins - 1), last.unwrap_or(begins - 31 * DAY));
            assert_eq!(period.next(begins - 1), begins);
            (start, last) = (start + length, Some(begins));
        }
    }

    #[test]
    fn weeks_begin_with_monday() {
        assert_eq!(Every::Week.begin(0), MONDAY - WEEK);
        assert_eq!(Every::Week.begin(MONDAY - 1), MONDAY - WEEK);
        assert_eq!(Every::Week.next(MONDAY - 1), MONDAY);
        assert_eq!(Every::Week.begin(MONDAY), MONDAY);
        assert_eq!(Every::Hour.begin(DAY + HOUR + 1), DAY + HOUR);
    }

    /// Any moment of PostgreSQL.
    fn moment() -> impl Strategy<Value = Instant> {
        const { -2_451_545 * DAY..106_751_983 * DAY }
    }

    proptest! {
        #[test]
        fn a_moment_is_in_its_period(
            now in moment(), anchor in proptest::option::of(moment()), which in 0usize..4,
        ) {
            let period = Period { every: ALL[which], anchor };
            let (begin, next) = (period.begin(now), period.next(now));
            prop_assert!(begin <= now && now < next);
            prop_assert_eq!(period.begin(begin), begin);
            prop_assert_eq!(period.begin(next), next);
            prop_assert_eq!(period.next(begin), next);
            prop_assert_eq!(period.begin(next - 1), begin);
            if let Some(anchor) = anchor {
                prop_assert_eq!(period.begin(anchor), anchor);
            }
        }

        #[test]
        fn no_moment_and_no_number_overflows(
            now: i64, anchor: Option<i64>, balance: i64, refilled_at: i64,
            refill in prop_oneof![1..=i64::MAX, 1..100i64, 1..1_000_000_000_000i64],
            spend in prop_oneof![0..=i64::MAX, 0..10i64], which in 0usize..4,
        ) {
            let period = Some(Period { every: ALL[which], anchor });
            let credits = Credits { balance, refill: Some(refill), period, refilled_at };
            prop_assert!(credits.at(now).0 >= balance);
            prop_assert!(credits.wait(spend, now).is_none_or(|wait| (0..=LONGEST_WAIT).contains(&wait)));
        }

        #[test]
        fn after_the_wait_there_is_enough_and_not_before(
            now in 0..10_000 * DAY, anchor in proptest::option::of(0..10_000 * DAY),
            balance in -500i64..50, refill in 1i64..100, spend in 1i64..100, which in 0usize..4,
        ) {
            let period = Some(Period { every: ALL[which], anchor });
            let credits = Credits { balance, refill: Some(refill), period, refilled_at: now };
            match credits.wait(spend, now) {
                None => prop_assert!(refill < spend),
                Some(wait) if balance < spend => {
                    prop_assert!(credits.at(now + wait).0 >= spend);
                    prop_assert!(credits.at(now + wait - 1).0 < spend);
                }
                Some(_) => {}
            }
        }

        /// Whoever looks in between changes nothing.
        #[test]
        fn refills_do_not_depend_on_when_they_are_noted(
            start in 0..10_000 * DAY, between in 0..100 * DAY, then in 0..100 * DAY,
            balance in -500i64..200, refill in 1i64..100, which in 0usize..4,
        ) {
            let period = Some(Period { every: ALL[which], anchor: None });
            let credits = Credits { balance, refill: Some(refill), period, refilled_at: start };
            let (noted, at) = credits.at(start + between);
            let noted = Credits { balance: noted, refilled_at: at, ..credits };
            let end = start + between + then;
            prop_assert_eq!(noted.at(end).0, credits.at(end).0);
        }
    }

    #[test]
    fn due_once_a_period() {
        let is_due = |every: Option<Every>, refilled_at, now| {
            let period = every.map(|every| Period { every, anchor: None });
            let credits = Credits { balance: 3, refill: Some(10), period, refilled_at };
            let refilled = credits.at(now) == (10, now);
            assert!(refilled || credits.at(now) == (3, refilled_at));
            refilled
        };
        assert!(!is_due(None, 0, i64::MAX));
        assert!(!is_due(Some(Every::Day), DAY, DAY + 5));
        assert!(is_due(Some(Every::Day), DAY - 1, DAY));
        assert!(!is_due(Some(Every::Day), 2 * DAY, DAY));
        assert!(is_due(Some(Every::Day), 2 * DAY + 1, DAY));
        assert!(is_due(Some(Every::Month), 2 * DAY + 1, DAY));
        assert!(!is_due(Some(Every::Month), 0, 30 * DAY));
        assert!(is_due(Some(Every::Month), 0, 31 * DAY));
    }

    #[test]
    fn a_refill_takes_nothing_away_and_pays_debts() {
        let period = Some(Period { every: Every::Day, anchor: None });
        let credits = Credits { balance: 50, refill: Some(10), period, refilled_at: 0 };
        assert_eq!(credits.at(DAY), (50, DAY));
        assert_eq!(Credits { refill: None, ..credits }.at(DAY), (50, 0));
        let debt = Credits { balance: -25, ..credits };
        assert_eq!([1, 2, 3, 4, 9].map(|days| debt.at(days * DAY).0), [-15, -5, 5, 10, 10]);
        assert_eq!(debt.wait(5, 0), Some(3 * DAY));
        assert_eq!(debt.wait(6, 0), Some(4 * DAY));
        assert_eq!(debt.wait(11, 0), None);
        // A hundred years at most.
        let wait = |balance| Credits { balance, ..debt }.wait(1, 0);
        assert_eq!(wait(-364_990), Some(LONGEST_WAIT));
        assert_eq!([-365_000, -i64::MAX, i64::MIN].map(wait), [None; 3]);
    }

    #[test]
    fn a_threshold_is_crossed_once() {
        let of = |before, after| Crossing::of(before, after, Some(5));
        let none = Crossing::default();
        assert_eq!(of(6, 5), Crossing { low: true, ..none });
        assert_eq!(of(5, 1), none);
        assert_eq!(of(6, -1), Crossing { low: true, exhausted: true });
        assert_eq!(of(0, -1), none);
        assert_eq!(Crossing::of(9, 1, None), none);
    }
}
