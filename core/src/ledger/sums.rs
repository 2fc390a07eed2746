//! Rows and sums by ranges of keys: of a table, or of what a transaction changed.

use super::sum::Sum;
use std::collections::BTreeMap;

/// How many rows, and the sum of their hashes. In a difference the rows are those that were inserted
/// minus those that were removed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Part {
    pub rows: i64,
    pub sum: Sum,
}

impl Part {
    pub fn add(&mut self, other: &Part) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.sum += other.sum;
    }

    pub fn subtract(&mut self, other: &Part) {
        self.rows = self.rows.wrapping_sub(other.rows);
        self.sum -= other.sum;
    }

    pub fn is_zero(&self) -> bool {
        self.rows == 0 && self.sum.is_zero()
    }
}

#[derive(Clone, Default, Debug)]
pub struct Sums(BTreeMap<u64, Part>);

impl Sums {
    /// Adds a row.
    #[inline]
    pub fn insert(&mut self, range: u64, hash: Sum) {
        self.part(range).add(&Part { rows: 1, sum: hash });
    }

    /// Takes a row away.
    #[inline]
    pub fn remove(&mut self, range: u64, hash: Sum) {
        self.part(range).subtract(&Part { rows: 1, sum: hash });
    }

    #[inline]
    fn part(&mut self, range: u64) -> &mut Part {
        self.0.entry(range).or_default()
    }

    pub fn add_part(&mut self, range: u64, part: &Part) {
        self.part(range).add(part);
    }

    pub fn add(&mut self, other: &Sums) {
        other.0.iter().for_each(|(range, part)| self.part(*range).add(part));
    }

    pub fn subtract(&mut self, other: &Sums) {
        other.0.iter().for_each(|(range, part)| self.part(*range).subtract(part));
    }

    /// The parts that are not zero, in the order of their ranges.
    pub fn parts(&self) -> impl Iterator<Item = (u64, &Part)> {
        self.0.iter().map(|(range, part)| (*range, part)).filter(|(_, part)| !part.is_zero())
    }

    pub fn get(&self, range: u64) -> Part {
        self.0.get(&range).copied().unwrap_or_default()
    }

    pub fn total(&self) -> Part {
        let mut total = Part::default();
        self.0.values().for_each(|part| total.add(part));
        total
    }

    /// How many ranges it knows.
    #[inline]
    pub fn ranges(&self) -> usize {
        self.0.len()
    }

    pub fn is_zero(&self) -> bool {
        self.parts().next().is_none()
    }

    /// Whether it knows the range, even if nothing is left there.
    pub fn has(&self, range: u64) -> bool {
        self.0.contains_key(&range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(row: u8) -> Sum {
        Sum::of(&[row; 32])
    }

    fn parts(sums: &Sums) -> Vec<(u64, Part)> {
        sums.parts().map(|(range, part)| (range, *part)).collect()
    }

    fn of(changes: &[(u8, bool)]) -> Sums {
        let mut sums = Sums::default();
        for (row, is_inserted) in changes {
            let range = u64::from(row % 3);
            if *is_inserted {
                sums.insert(range, hash(*row));
            } else {
                sums.remove(range, hash(*row));
            }
        }
        sums
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, bool)>> {
        proptest::collection::vec(any::<(u8, bool)>(), 0..12)
    }

    proptest! {
        #[test]
        fn the_order_of_changes_does_not_matter(
            (changes, other) in changes().prop_flat_map(|c| (Just(c.clone()), Just(c).prop_shuffle())),
            cut in any::<proptest::sample::Index>(),
        ) {
            let sums = of(&changes);
            prop_assert_eq!(parts(&of(&other)), parts(&sums));
            let cut = cut.index(changes.len() + 1);
            let mut halves = of(&changes[..cut]);
            halves.add(&of(&changes[cut..]));
            prop_assert_eq!(parts(&halves), parts(&sums));
            let mut total = Part::default();
            sums.parts().for_each(|(_, part)| total.add(part));
            prop_assert_eq!(sums.total(), total);
            halves.subtract(&sums);
            prop_assert!(halves.is_zero());
        }

        #[test]
        fn what_was_inserted_and_deleted_is_nothing(changes in changes()) {
            let undone = changes.iter().map(|(row, is_inserted)| (*row, !is_inserted));
            let all: Vec<_> = changes.iter().copied().chain(undone).collect();
            prop_assert!(of(&all).is_zero());
            prop_assert_eq!(of(&all).total(), Part::default());
        }
    }

    #[test]
    fn a_row_that_takes_the_place_of_another_is_no_zero() {
        let sums = of(&[(1, true), (4, false)]);
        assert_eq!(sums.get(1).rows, 0);
        assert!(!sums.is_zero());
        assert_eq!(sums.get(2), Part::default());
    }
}
