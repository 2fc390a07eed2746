//! Lifetimes: how long a key may live from its creation on, whatever its own expiry says.

use super::rules::Instant;

const DAY: i64 = 86_400_000_000;
/// The shortest and the longest lifetime, in microseconds.
const SHORTEST: i64 = 1_000_000;
const LONGEST: i64 = 36_500 * DAY;

pub const LIFETIME_RULE: &str =
    "must be an interval from 1 second to 36500 days, such as 90 days, without months and years";

/// The shortest time after which a key counts as not used: keys are disabled within an hour.
const SHORTEST_IDLE: i64 = 3_600_000_000;

pub const IDLE_RULE: &str =
    "must be an interval from 1 hour to 36500 days, such as 90 days, without months and years";

pub const NOTICE_RULE: &str = "must be 0, or an interval from 1 second to 36500 days, such as 7 days, without months and years";

/// Whether a lifetime may also be the time after which unused keys are disabled.
pub fn may_be_idle_for(length: i64) -> bool {
    length >= SHORTEST_IDLE
}

/// The length of an interval in microseconds, if keys may have it as their lifetime. A day has 24
/// hours; months and years differ in length.
pub fn length(months: i32, days: i32, micros: i64) -> Option<i64> {
    let length = i64::from(days).checked_mul(DAY)?.checked_add(micros)?;
    (months == 0 && (SHORTEST..=LONGEST).contains(&length)).then_some(length)
}

/// What ends a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its own expiry.
    Own,
    Tenant,
    Keyspace,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Bound::Own => "its own expiry",
            Bound::Tenant => "the max_lifetime of its tenant",
            Bound::Keyspace => "the max_lifetime of its keyspace",
        }
    }
}

/// The bounds of a key's life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub created_at: Instant,
    pub expires_at: Option<Instant>,
    pub tenants: Option<i64>,
    pub keyspaces: Option<i64>,
}

impl Life {
    /// The end of the key: the earliest bound.
    #[inline]
    pub fn end(&self) -> Option<Instant> {
        match (self.tenants, self.keyspaces) {
            (None, None) => self.expires_at,
            (tenants, keyspaces) => earlier(self.expires_at, self.latest_of(tenants, keyspaces)),
        }
    }

    /// The end that tenant and keyspace set.
    pub fn latest(&self) -> Option<Instant> {
        self.latest_of(self.tenants, self.keyspaces)
    }

    #[inline]
    fn latest_of(&self, tenants: Option<i64>, keyspaces: Option<i64>) -> Option<Instant> {
        earlier(tenants, keyspaces).map(|length| self.created_at.saturating_add(length))
    }

    /// The bound that ends the key, if it ends. Of bounds that end it at the same time, it is the
    /// narrower one.
    pub fn bound(&self) -> Option<Bound> {
        let end = self.end()?;
        let is_end = |lifetime: Option<i64>| {
            lifetime.is_some_and(|length| self.created_at.saturating_add(length) == end)
        };
        Some(match self {
            _ if self.expires_at == Some(end) => Bound::Own,
            _ if is_end(self.tenants) => Bound::Tenant,
            _ => Bound::Keyspace,
        })
    }
}

#[inline]
fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths() {
        assert_eq!(length(0, 90, 0), Some(90 * DAY));
        assert_eq!(length(0, 1, -3_600_000_000), Some(23 * 3_600_000_000));
        assert_eq!(length(0, 0, SHORTEST), Some(SHORTEST));
        assert_eq!(length(0, 36_500, 0), Some(LONGEST));
        for (months, days, micros) in [
            (0, 0, 0),
            (0, 0, SHORTEST - 1),
            (0, -1, 0),
            (0, 0, -1),
            (0, 36_500, 1),
            (1, 0, 0),
            (12, 0, 0),
            (-1, 31, 0),
            (0, i32::MAX, i64::MAX),
            (0, i32::MIN, i64::MIN),
            (i32::MAX, i32::MAX, i64::MAX),
        ] {
            assert_eq!(length(months, days, micros), None, "{months} {days} {micros}");
        }
    }

    proptest! {
        #[test]
        fn the_earliest_bound_wins(
            created_at in -1000..1000i64,
            expires_at: Option<i16>,
            tenants in proptest::option::of(1..1000i64),
            keyspaces in proptest::option::of(1..1000i64),
        ) {
            let expires_at = expires_at.map(i64::from);
            let life = Life { created_at, expires_at, tenants, keyspaces };
            let bounds = [
                (Bound::Own, expires_at),
                (Bound::Tenant, tenants.map(|length| created_at + length)),
                (Bound::Keyspace, keyspaces.map(|length| created_at + length)),
            ];
            let first = bounds.iter().filter_map(|(bound, at)| Some((*at.as_ref()?, *bound))).min_by_key(|(at, _)| *at);
            prop_assert_eq!(life.end(), first.map(|(at, _)| at));
            prop_assert_eq!(life.bound(), first.map(|(_, bound)| bound));
            let without = Life { expires_at: None, ..life };
            prop_assert_eq!(life.latest(), without.end());
        }
    }
}
