//! Credits are refilled at the beginning of each day or month, in UTC.

/// Microseconds since 2000-01-01 00:00 UTC, as PostgreSQL counts them.
pub type Instant = i64;

const DAY: i64 = 86_400_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    Day,
    Month,
}

impl Every {
    pub const NAMES: [&'static str; 2] = ["day", "month"];

    pub fn parse(name: &[u8]) -> Option<Every> {
        match name {
            b"day" => Some(Every::Day),
            b"month" => Some(Every::Month),
            _ => None,
        }
    }

    /// The beginning of the day or month that contains a moment.
    pub fn begin(self, now: Instant) -> Instant {
        let day = now.div_euclid(DAY);
        match self {
            Every::Day => day * DAY,
            Every::Month => (day - day_of_month(day) + 1) * DAY,
        }
    }

    /// The beginning of the next day or month.
    pub fn next(self, now: Instant) -> Instant {
        match self {
            Every::Day => self.begin(now).saturating_add(DAY),
            // No month has more than 31 days, nor fewer than 28.
            Every::Month => self.begin(self.begin(now).saturating_add(31 * DAY)),
        }
    }
}

/// The credits of a key or tenant, as they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Credits {
    pub balance: i64,
    /// A refill raises the balance to this, unless it is higher.
    pub refill: Option<i64>,
    pub every: Option<Every>,
    pub refilled_at: Instant,
}

impl Credits {
    /// The balance and the time of the last refill, at a moment. A refill that is due is included.
    pub fn at(&self, now: Instant) -> (i64, Instant) {
        match self.refill {
            Some(refill) if self.is_due(now) => (self.balance.max(refill), now),
            _ => (self.balance, self.refilled_at),
        }
    }

    /// A last refill that is more than a day ahead comes from a clock that was wrong. It must
    /// not stop refills until then.
    fn is_due(&self, now: Instant) -> bool {
        let latest = now.saturating_add(DAY);
        self.every.is_some_and(|every| !(every.begin(now)..=latest).contains(&self.refilled_at))
    }
}

/// The year, month and day of a day that is counted from 2000-01-01. All begin with 1.
fn day_of_month(day: i64) -> i64 {
    // Years are counted from March, so that a leap day is the last day of a year.
    let day = day - 60;
    let in_era = day.rem_euclid(146_097);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    in_year - (153 * month + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        for length in lengths(2000).take(12 * 500) {
            for now in [start, start + 1, start + length / 2, start + length - 1] {
                for moment in [now * DAY, now * DAY + DAY - 1] {
                    assert_eq!(Every::Month.begin(moment), start * DAY);
                    assert_eq!(Every::Month.next(moment), (start + length) * DAY);
                }
            }
            start += length;
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_in_its_period(now in -1_000_000 * DAY..1_000_000 * DAY) {
            for every in [Every::Day, Every::Month] {
                prop_assert!(every.begin(now) <= now && now < every.next(now));
                prop_assert_eq!(every.begin(every.begin(now)), every.begin(now));
                prop_assert_eq!(every.begin(every.next(now)), every.next(now));
            }
        }
    }

    #[test]
    fn due_once_a_period() {
        let is_due = |every, refilled_at, now| {
            let credits = Credits { balance: 3, refill: Some(10), every, refilled_at };
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
    fn a_refill_takes_nothing_away() {
        let credits =
            Credits { balance: 50, refill: Some(10), every: Some(Every::Day), refilled_at: 0 };
        assert_eq!(credits.at(DAY), (50, DAY));
        assert_eq!(Credits { refill: None, ..credits }.at(DAY), (50, 0));
    }
}
