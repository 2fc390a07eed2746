//! Ranges of keys. A ledger keeps a sum for each, so that a problem has a place.

/// What a primary key's first column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// int2, int4 or int8.
    Integer,
    /// timestamp or timestamptz.
    Timestamp,
    Date,
    /// uuid, bytea or text.
    Bytes,
    /// Any other type: there is one range.
    Other,
}

/// How keys are divided into ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ranges {
    pub kind: Kind,
    /// So many low bits of a key's number don't matter: a range has two to the power of it.
    pub shift: u8,
}

/// The keys of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// Integers, microseconds or days since 2000, both included.
    Numbers(i64, i64),
    /// The first and the last of the first eight bytes.
    Bytes([u8; 8], [u8; 8]),
    All,
}

/// A range should have more rows of a sample than this, and need not have more than that.
const FEW_ROWS: usize = 16;
const MANY_ROWS: usize = 256;

/// There are at most 2^16 ranges with this shift. A wider one isn't needed for any keys.
const MOST_SHIFT: u8 = 48;

/// The bit of the sign. Flipped, it orders negative numbers before the others.
const SIGN: u64 = 1 << 63;

impl Ranges {
    /// 4096 integers, 2^32 microseconds (72 minutes), 64 days, or the first 12 bits of bytes.
    pub fn of(kind: Kind) -> Ranges {
        let shift = match kind {
            Kind::Integer => 12,
            Kind::Timestamp => 32,
            Kind::Date => 6,
            Kind::Bytes => 52,
            Kind::Other => 64,
        };
        Ranges { kind, shift }
    }

    /// The ranges for a table, given the numbers of some keys. If the usual ranges would have few rows
    /// each, as with random int8, they get wider. If one would have them all, as with uuids or texts
    /// that begin alike, they get narrower.
    pub fn fitting(kind: Kind, sample: &[u64]) -> Ranges {
        let mut ranges = Ranges::of(kind);
        let mut numbers = sample.to_vec();
        numbers.sort_unstable();
        let count = |shift: u8| {
            let range = |number: &u64| number.checked_shr(shift.into()).unwrap_or(0);
            numbers.chunk_by(|one, next| range(one) == range(next)).count()
        };
        while ranges.shift < MOST_SHIFT && count(ranges.shift) > numbers.len() / FEW_ROWS + 2 {
            ranges.shift += 1;
        }
        let many = numbers.len() / MANY_ROWS;
        let is_known = kind == Kind::Bytes && many > 0;
        while is_known && ranges.shift > 0 && count(ranges.shift - 1) <= many {
            ranges.shift -= 1;
        }
        ranges
    }

    /// The number of a key: the range that it would have without a shift.
    pub fn number(kind: Kind, content: &[u8]) -> u64 {
        Ranges { kind, shift: 0 }.range(content)
    }

    /// The range of a row, by the content of its primary key's first column: the same bytes that its
    /// hash covers.
    #[inline]
    pub fn range(self, content: &[u8]) -> u64 {
        let number = match self.kind {
            Kind::Bytes => {
                let mut first = [0; 8];
                first.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
                u64::from_be_bytes(first)
            }
            Kind::Other => 0,
            Kind::Integer | Kind::Timestamp | Kind::Date => number(content) as u64 ^ SIGN,
        };
        number.checked_shr(self.shift.into()).unwrap_or(0)
    }

    pub fn span(self, range: u64) -> Span {
        let first = range.checked_shl(self.shift.into()).unwrap_or(0);
        let last = first | 1u64.checked_shl(self.shift.into()).unwrap_or(0).wrapping_sub(1);
        match self.kind {
            Kind::Other => Span::All,
            Kind::Bytes => Span::Bytes(first.to_be_bytes(), last.to_be_bytes()),
            Kind::Integer | Kind::Timestamp | Kind::Date => {
                Span::Numbers((first ^ SIGN) as i64, (last ^ SIGN) as i64)
            }
        }
    }
}

/// A signed number of two, four or eight bytes, the most significant first.
fn number(content: &[u8]) -> i64 {
    match *content {
        [a, b] => i16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        _ => content.try_into().map_or(0, i64::from_be_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn integer(key: i64) -> u64 {
        Ranges::of(Kind::Integer).range(&key.to_be_bytes())
    }

    proptest! {
        #[test]
        fn ranges_have_the_order_of_their_keys(
            one in any::<i64>(), other in any::<i64>(), shift in 0u8..=64,
            left in ".{0,3}", right in ".{0,3}",
        ) {
            for kind in [Kind::Integer, Kind::Timestamp] {
                let ranges = Ranges { shift, ..Ranges::of(kind) };
                let range = |key: i64| ranges.range(&key.to_be_bytes());
                prop_assert!(range(one.min(other)) <= range(one.max(other)));
                let Span::Numbers(first, last) = ranges.span(range(one)) else { panic!() };
                prop_assert!((first..=last).contains(&one));
                prop_assert_eq!((range(first), range(last)), (range(one), range(one)));
            }
            let bytes = |key: &str| Ranges::of(Kind::Bytes).range(key.as_bytes());
            prop_assert_eq!(bytes(&left).cmp(&bytes(&right)).then(left.cmp(&right)), left.cmp(&right));
        }

        #[test]
        fn any_content_has_a_range(content in any::<Vec<u8>>(), range in any::<u64>(), shift in any::<u8>()) {
            for kind in [Kind::Integer, Kind::Timestamp, Kind::Date, Kind::Bytes, Kind::Other] {
                let ranges = Ranges { kind, shift };
                ranges.range(&content);
                ranges.span(range);
            }
        }
    }

    /// Numbers that look random, always the same ones.
    fn random() -> impl Iterator<Item = u64> {
        std::iter::successors(Some(1u64), |number| {
            let number = number ^ number << 13;
            let number = number ^ number >> 7;
            Some(number ^ number << 17)
        })
    }

    fn count(ranges: Ranges, sample: &[u64]) -> usize {
        let found =
            sample.iter().map(|number| number.checked_shr(ranges.shift.into()).unwrap_or(0));
        found.collect::<std::collections::BTreeSet<_>>().len()
    }

    #[test]
    fn ranges_fit_keys() {
        let sequential = |step: u64, count: u64| -> Vec<u64> {
            let key = |key: u64| Ranges::number(Kind::Integer, &(key * step).to_be_bytes());
            (0..count).map(key).collect()
        };
        // Keys of a sequence, all of them or one in a hundred, of a small or a large table.
        for sample in [sequential(1, 30_000), sequential(100, 30_000), sequential(1, 3)] {
            assert_eq!(Ranges::fitting(Kind::Integer, &sample), Ranges::of(Kind::Integer));
        }

        // With the usual shift, each number has another range. Now there are 2^16 ranges at most.
        let sample: Vec<_> = random().take(30_000).collect();
        assert_eq!(count(Ranges::of(Kind::Integer), &sample), 30_000);
        for kind in [Kind::Integer, Kind::Timestamp] {
            assert_eq!(Ranges::fitting(kind, &sample).shift, MOST_SHIFT);
        }
        let ranges = Ranges::fitting(Kind::Integer, &sample[..100]);
        assert_eq!(ranges.shift, MOST_SHIFT);
        assert_eq!(
            (ranges.range(&i64::MIN.to_be_bytes()), ranges.range(&i64::MAX.to_be_bytes())),
            (0, 65_535)
        );
        let sample: Vec<_> = sample.iter().map(|number| number >> 16).collect();
        let ranges = Ranges::fitting(Kind::Integer, &sample);
        assert!(ranges.shift < MOST_SHIFT && count(ranges, &sample) <= 30_000 / FEW_ROWS + 1);

        // Random uuids and texts have the usual ranges, and so has nothing.
        let sample: Vec<_> = random().take(30_000).collect();
        assert_eq!(Ranges::fitting(Kind::Bytes, &sample).shift, 52);
        for kind in [Kind::Integer, Kind::Timestamp, Kind::Date, Kind::Bytes, Kind::Other] {
            assert_eq!(Ranges::fitting(kind, &[]), Ranges::of(kind));
            assert_eq!(Ranges::fitting(kind, &[7]), Ranges::of(kind));
        }
        let other = Ranges::number(Kind::Other, b"x");
        assert_eq!(Ranges::fitting(Kind::Other, &[other; 9999]), Ranges::of(Kind::Other));
    }

    #[test]
    fn keys_that_begin_alike_have_narrower_ranges() {
        // Keys of a year: uuids of version 7 begin with milliseconds, in 48 bits.
        let year = 31_536_000_000_u64;
        let uuid = |number: u64| {
            let at = 1_790_000_000_000 + number % year;
            Ranges::number(Kind::Bytes, &(at << 16 | 0x7abc).to_be_bytes())
        };
        let uuids: Vec<_> = random().take(30_000).map(uuid).collect();
        let text = |number: u64| format!("key_{:016}", number % 1_000_000 * 10_000_000_000);
        let text = |number| Ranges::number(Kind::Bytes, text(number).as_bytes());
        let texts: Vec<_> = random().take(30_000).map(text).collect();
        for sample in [uuids, texts] {
            assert_eq!(count(Ranges::of(Kind::Bytes), &sample), 1);
            let ranges = Ranges::fitting(Kind::Bytes, &sample);
            let found = count(ranges, &sample);
            assert!(ranges.shift < 52 && (20..=117).contains(&found), "{ranges:?} {found}");
        }
    }

    #[test]
    fn a_range_has_a_fixed_width() {
        assert_eq!(integer(0), integer(4095));
        assert_eq!(integer(0) + 1, integer(4096));
        assert_eq!(integer(0) - 1, integer(-1));
        let ranges = Ranges::of(Kind::Integer);
        assert_eq!(ranges.span(integer(5000)), Span::Numbers(4096, 8191));
        // A key has the same range after its type became wider.
        assert_eq!(ranges.range(&[0x13, 0x88]), integer(5000));
        assert_eq!(ranges.range(&[0, 0, 0x13, 0x88]), integer(5000));
        assert_eq!(ranges.range(&[0xff, 0xff]), integer(-1));

        let days = Ranges::of(Kind::Date);
        assert_eq!(days.span(days.range(&64i32.to_be_bytes())), Span::Numbers(64, 127));

        let bytes = Ranges::of(Kind::Bytes);
        assert_eq!(bytes.range(b"\xab\xcd\xef"), 0xabc);
        assert_eq!(bytes.range(b""), 0);
        assert_eq!(bytes.range(b"\xab"), 0xab0);
        let span =
            Span::Bytes([0xab, 0xc0, 0, 0, 0, 0, 0, 0], [0xab, 0xcf, 255, 255, 255, 255, 255, 255]);
        assert_eq!(bytes.span(0xabc), span);
        assert_eq!(Ranges::of(Kind::Other).range(b"x"), 0);
        assert_eq!(Ranges::of(Kind::Other).span(0), Span::All);
    }
}
