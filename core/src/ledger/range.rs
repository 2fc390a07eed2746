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
