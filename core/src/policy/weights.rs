//! What a request counts for in rate limits: calls, and units that the application names, such as
//! tokens.

/// The unit that every request counts for.
pub const CALLS: &[u8] = b"calls";
/// The most units of a request besides calls.
pub const MAX_UNITS: usize = 8;
/// The most of one unit that a request counts for.
pub const MAX_WEIGHT: u32 = 1_000_000_000;
/// The longest name of a unit.
pub const MAX_NAME: usize = 31;

/// A unit, and how much of it a request counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight<'a> {
    pub unit: &'a [u8],
    pub weight: u32,
}

/// What a request counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights<'a> {
    pub calls: u32,
    /// The other units, each with its own name.
    pub others: &'a [Weight<'a>],
}

impl Weights<'_> {
    pub const ONE_CALL: Weights<'static> = Weights { calls: 1, others: &[] };

    /// Whether it counts for a unit, or its caller says that it does not.
    pub fn has(&self, unit: &[u8]) -> bool {
        unit == CALLS || self.others.iter().any(|other| other.unit == unit)
    }

    /// What it counts for in a unit; 0 in one that it does not name.
    #[inline]
    pub fn of(&self, unit: &[u8]) -> u32 {
        if unit == CALLS {
            return self.calls;
        }
        self.others.iter().find(|other| other.unit == unit).map_or(0, |other| other.weight)
    }
}

impl Default for Weights<'_> {
    fn default() -> Self {
        Weights::ONE_CALL
    }
}

/// The weights that a caller gives. They are kept in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    calls: Option<u32>,
    others: Option<Others<'a>>,
    /// Whether units were added.
    has_units: bool,
}

#[derive(Clone, Copy, Debug)]
struct Others<'a> {
    weights: [Weight<'a>; MAX_UNITS],
    count: usize,
}

impl<'a> Asked<'a> {
    /// The weight in calls, if it is given by itself.
    #[inline]
    pub fn new(calls: Option<u32>) -> Asked<'a> {
        Asked { calls, others: None, has_units: false }
    }

    /// Adds a unit, which is there once. `weight` is `None` if it is no number that the unit may
    /// have. The error completes "weights …".
    pub fn add(&mut self, unit: &'a [u8], weight: Option<u64>) -> Result<(), &'static str> {
        if !is_unit(unit) {
            return Err(UNIT_RULE);
        }
        let weight = weight.and_then(|weight| u32::try_from(weight).ok());
        let weight = weight.filter(|weight| *weight <= MAX_WEIGHT).ok_or(WEIGHTS_RULE)?;
        self.has_units = true;
        if unit == CALLS {
            return match self.calls.replace(weight) {
                None => Ok(()),
                Some(_) => Err("must not have calls if weight is given"),
            };
        }
        const NOTHING: Weight = Weight { unit: b"", weight: 0 };
        let others = self.others.get_or_insert(Others { weights: [NOTHING; MAX_UNITS], count: 0 });
        let place = others.weights.get_mut(others.count).ok_or(COUNT_RULE)?;
        *place = Weight { unit, weight };
        others.count += 1;
        Ok(())
    }

    /// The weight in a unit, if the caller gives one.
    pub fn given(&self, unit: &[u8]) -> Option<u32> {
        match unit {
            CALLS => self.calls,
            _ => {
                let mut others = self.weights(0).others.iter();
                others.find(|other| other.unit == unit).map(|other| other.weight)
            }
        }
    }

    /// The units that were added, each with its weight. A weight in calls is one if it is given.
    pub fn all_given(&self) -> impl Iterator<Item = Weight<'a>> {
        let calls = self.calls.map(|weight| Weight { unit: CALLS, weight });
        let others = self.others.iter().flat_map(|others| others.weights.iter().take(others.count));
        calls.into_iter().chain(others.copied())
    }

    /// Whether units were added that make the request count for something else than one call.
    #[inline]
    pub fn are_told(&self) -> bool {
        self.has_units && self.weights(1) != Weights::ONE_CALL
    }

    /// The weights of the request, if it counts for so many calls unless the caller says otherwise.
    #[inline]
    pub fn weights(&self, calls: u32) -> Weights<'_> {
        let others = self.others.as_ref();
        Weights {
            calls: self.calls.unwrap_or(calls),
            others: others.and_then(|others| others.weights.get(..others.count)).unwrap_or(&[]),
        }
    }
}

pub fn is_unit(name: &[u8]) -> bool {
    let is_inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    name.len() <= MAX_NAME
        && name.first().is_some_and(u8::is_ascii_lowercase)
        && name.iter().all(is_inner)
}

pub const UNIT_RULE: &str = "must have units of 1 to 31 letters a-z, digits, _ and -, beginning with a \
                             letter";
pub const UNIT_NAME_RULE: &str =
    "must have 1 to 31 letters a-z, digits, _ and -, and begin with a letter";
pub const WEIGHTS_RULE: &str = "must have whole numbers from 0 to 1000000000";
/// The same about one weight.
pub const WEIGHT_RULE: &str = "must be from 0 to 1000000000";
const COUNT_RULE: &str = "must have at most 8 units besides calls";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units() {
        for good in ["a", "tokens", "gpu-seconds", "a_1", &"x".repeat(31)] {
            assert!(is_unit(good.as_bytes()), "{good}");
        }
        for bad in ["", "A", "1a", "-a", "_a", "a b", "a\0", "ä", "tokenS", &"x".repeat(32)] {
            assert!(!is_unit(bad.as_bytes()), "{bad}");
        }
        assert!(UNIT_RULE.contains(&format!("1 to {MAX_NAME} ")));
        for rule in [WEIGHTS_RULE, WEIGHT_RULE] {
            assert!(rule.ends_with(&format!(" 0 to {MAX_WEIGHT}")));
        }
        assert!(COUNT_RULE.contains(&format!("{MAX_UNITS} units")));
    }

    #[test]
    fn calls_are_given_once_or_not_at_all() {
        let weights = |weight, calls: Option<u64>| {
            let mut asked = Asked::new(weight);
            calls.map_or(Ok(()), |calls| asked.add(CALLS, Some(calls)))?;
            asked.add(b"tokens", Some(7))?;
            let weights = asked.weights(5);
            assert_eq!((weights.of(b"tokens"), weights.of(b"other")), (7, 0));
            Ok::<_, &str>(weights.of(CALLS))
        };
        assert_eq!(weights(None, None), Ok(5));
        assert_eq!(weights(Some(2), None), Ok(2));
        assert_eq!(weights(None, Some(3)), Ok(3));
        assert!(weights(Some(2), Some(2)).is_err());
        assert_eq!(Asked::default().weights(1), Weights::ONE_CALL);
        assert_eq!(Asked::new(Some(u32::MAX)).weights(1).calls, u32::MAX);
    }

    #[test]
    fn weights_that_are_none() {
        let add = |weight| Asked::default().add(b"tokens", weight);
        assert_eq!(add(Some(u64::from(MAX_WEIGHT))), Ok(()));
        for bad in [None, Some(u64::from(MAX_WEIGHT) + 1), Some(1 << 32), Some(u64::MAX)] {
            assert_eq!(add(bad), Err(WEIGHTS_RULE), "{bad:?}");
        }
    }

    #[test]
    fn what_is_told_is_more_than_a_weight_in_calls() {
        let told = |weight, unit: &'static [u8], n| {
            let mut asked = Asked::new(weight);
            asked.add(unit, Some(n)).unwrap();
            asked.are_told()
        };
        assert!(!Asked::new(Some(5)).are_told() && !Asked::default().are_told());
        assert!(told(None, CALLS, 5) && !told(None, CALLS, 1));
        assert!(told(Some(1), b"tokens", 0) && told(None, b"tokens", 9));
    }

    proptest! {
        #[test]
        fn what_is_added_is_there(
            units in proptest::collection::btree_map("[a-z][a-z0-9_-]{0,30}", 0..=u64::from(MAX_WEIGHT), 0..12),
        ) {
            let mut asked = Asked::default();
            let added: Vec<_> =
                units.iter().map(|(unit, weight)| asked.add(unit.as_bytes(), Some(*weight))).collect();
            let others = units.keys().filter(|unit| unit.as_bytes() != CALLS).count();
            prop_assert_eq!(added.iter().all(Result::is_ok), others <= MAX_UNITS);
            if others <= MAX_UNITS {
                let weights = asked.weights(1);
                prop_assert_eq!(weights.others.len(), others);
                for (unit, weight) in &units {
                    prop_assert_eq!(u64::from(weights.of(unit.as_bytes())), *weight);
                }
            }
        }
    }
}
