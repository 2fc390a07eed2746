//! Sums of hashes, modulo 2^256.

use std::fmt;
use std::ops::{AddAssign, SubAssign};

pub const SUM_LEN: usize = 32;

/// A number modulo 2^256. The least significant part is the first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Reads a number, the most significant byte first.
    #[inline]
    pub fn of(bytes: &[u8; SUM_LEN]) -> Sum {
        let mut sum = [0; 4];
        for (part, bytes) in sum.iter_mut().rev().zip(bytes.as_chunks().0) {
            *part = u64::from_be_bytes(*bytes);
        }
        Sum(sum)
    }

    pub fn to_bytes(self) -> [u8; SUM_LEN] {
        let mut bytes = [0; SUM_LEN];
        for (bytes, part) in bytes.as_chunks_mut().0.iter_mut().zip(self.0.iter().rev()) {
            *bytes = part.to_be_bytes();
        }
        bytes
    }

    /// In time that does not depend on the sums: the difference of two sums is a sum, too.
    pub fn is_zero(&self) -> bool {
        self.0.iter().fold(0, |all, part| all | part) == 0
    }
}

impl AddAssign for Sum {
    #[inline]
    fn add_assign(&mut self, other: Sum) {
        let mut carry = false;
        for (part, other) in self.0.iter_mut().zip(other.0) {
            (*part, carry) = part.carrying_add(other, carry);
        }
    }
}

impl SubAssign for Sum {
    #[inline]
    fn sub_assign(&mut self, other: Sum) {
        let mut borrow = false;
        for (part, other) in self.0.iter_mut().zip(other.0) {
            (*part, borrow) = part.borrowing_sub(other, borrow);
        }
    }
}

/// Sums are secret, so nothing prints them.
impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sum")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: [u8; SUM_LEN], change: impl Fn(&mut Sum)) -> [u8; SUM_LEN] {
        let mut sum = Sum::of(&bytes);
        change(&mut sum);
        sum.to_bytes()
    }

    /// Byte by byte, as on paper.
    fn added(one: [u8; SUM_LEN], other: [u8; SUM_LEN]) -> [u8; SUM_LEN] {
        let (mut sum, mut carry) = ([0; SUM_LEN], 0);
        for place in (0..SUM_LEN).rev() {
            let digit = u16::from(one[place]) + u16::from(other[place]) + carry;
            (sum[place], carry) = (digit as u8, digit >> 8);
        }
        sum
    }

    /// Many bytes of 0 and 255, so that carries run far.
    fn bytes() -> impl Strategy<Value = [u8; SUM_LEN]> {
        let byte = prop_oneof![Just(0u8), Just(255), any::<u8>()];
        proptest::collection::vec(byte, SUM_LEN).prop_map(|bytes| bytes.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn sums_are_those_of_numbers(one in bytes(), other in bytes()) {
            let sum = added(one, other);
            prop_assert_eq!(number(one, |sum| *sum += Sum::of(&other)), sum);
            prop_assert_eq!(number(sum, |sum| *sum -= Sum::of(&other)), one);
            prop_assert_eq!(Sum::of(&one).is_zero(), one == [0; SUM_LEN]);
        }
    }

    #[test]
    fn sums_wrap() {
        let mut one = [0; SUM_LEN];
        one[SUM_LEN - 1] = 1;
        assert_eq!(number([255; SUM_LEN], |sum| *sum += Sum::of(&one)), [0; SUM_LEN]);
        assert_eq!(number([0; SUM_LEN], |sum| *sum -= Sum::of(&one)), [255; SUM_LEN]);
        assert_eq!(format!("{:?}", Sum::of(&[7; SUM_LEN])), "Sum");
    }
}
