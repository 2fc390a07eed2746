//! The difference that a transaction makes to a ledger, as it is stored.
//!
//! Its sums are masked. Without masks, one row's difference would be its hash, and from enough hashes
//! of chosen rows one can compute rows with the sum of others.

use super::bytes::{self, Reader};
use super::keys::{LedgerKeys, MAC_LEN, Masked, NONCE_LEN, Nonce, is_mac, mac};
use super::sum::{SUM_LEN, Sum};
use super::sums::{Part, Sums};

const VERSION: u8 = 1;

/// The most ranges of a difference. Their bytes fit into a bytea.
pub const MOST_RANGES: usize = 1 << 24;

const PART_LEN: usize = 8 + 8 + SUM_LEN;
const HEAD_LEN: usize = 1 + 8 + 8 + NONCE_LEN + 4;

/// A difference as it was read. Nothing of it is known to be genuine until it is opened.
#[derive(Clone, Copy)]
pub struct Difference<'a> {
    /// The database whose transaction made it.
    pub incarnation: u64,
    pub xid: u64,
    nonce: [u8; NONCE_LEN],
    parts: &'a [[u8; PART_LEN]],
    content: &'a [u8],
    mac: [u8; MAC_LEN],
}

/// Writes the difference of a transaction. `None` if it has more than `MOST_RANGES`.
pub fn seal(
    keys: &LedgerKeys,
    nonce: Nonce,
    incarnation: u64,
    xid: u64,
    sums: &Sums,
) -> Option<Vec<u8>> {
    let count = sums.parts().count();
    if count > MOST_RANGES {
        return None;
    }
    let plain = sums.parts().map(|(range, part)| (range, *part));
    let nonce = keys.nonce(nonce, &content((incarnation, xid), [0; NONCE_LEN], count, plain));
    let masked = sums.parts().map(|(range, part)| {
        let mut masked = *part;
        masked.sum += keys.mask(Masked::Difference, &nonce, range);
        (range, masked)
    });
    let mut written = content((incarnation, xid), nonce, count, masked);
    let mac = mac(&keys.difference, &written);
    written.extend_from_slice(&mac);
    Some(written)
}

fn content(
    (incarnation, xid): (u64, u64),
    nonce: [u8; NONCE_LEN],
    count: usize,
    parts: impl Iterator<Item = (u64, Part)>,
) -> Vec<u8> {
    let mut written = Vec::with_capacity(HEAD_LEN + count * PART_LEN + MAC_LEN);
    written.push(VERSION);
    written.extend_from_slice(&incarnation.to_be_bytes());
    written.extend_from_slice(&xid.to_be_bytes());
    written.extend_from_slice(&nonce);
    written.extend_from_slice(&bytes::length(count));
    for (range, part) in parts {
        written.extend_from_slice(&range.to_be_bytes());
        written.extend_from_slice(&part.rows.to_be_bytes());
        written.extend_from_slice(&part.sum.to_bytes());
    }
    written
}

impl<'a> Difference<'a> {
    pub fn decode(stored: &'a [u8]) -> Option<Difference<'a>> {
        let (content, mac) = stored.split_last_chunk()?;
        let mut reader = Reader(content);
        let version: [u8; 1] = reader.bytes()?;
        let (incarnation, xid) = (reader.u64()?, reader.u64()?);
        let nonce = reader.bytes()?;
        let count = reader.length()?;
        let (parts, rest) = reader.0.as_chunks();
        let is_whole = rest.is_empty() && parts.len() == count && count <= MOST_RANGES;
        let difference = Difference { incarnation, xid, nonce, parts, content, mac: *mac };
        let rises = difference.parts().is_sorted_by(|one, next| one.0 < next.0);
        (version == [VERSION] && is_whole && rises).then_some(difference)
    }

    /// The ranges, each with its rows and its masked sum.
    fn parts(&self) -> impl Iterator<Item = (u64, Part)> {
        self.parts.iter().filter_map(|part| {
            let mut reader = Reader(part);
            let (range, rows) = (reader.u64()?, reader.i64()?);
            Some((range, Part { rows, sum: Sum::of(&reader.bytes()?) }))
        })
    }

    /// The rows that were inserted minus those that were removed, as it says.
    pub fn rows(&self) -> i64 {
        self.parts().fold(0, |rows, (_, part)| rows.wrapping_add(part.rows))
    }

    /// What it adds to the table's sums. `None` if it was altered, or is another ledger's.
    pub fn open(&self, keys: &LedgerKeys) -> Option<Sums> {
        if !is_mac(&keys.difference, self.content, &self.mac) {
            return None;
        }
        let mut sums = Sums::default();
        for (range, mut part) in self.parts() {
            part.sum -= keys.mask(Masked::Difference, &self.nonce, range);
            sums.add_part(range, &part);
        }
        Some(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::unpeppered(&[1; 32], &[2; 16])
    }

    fn sums() -> impl Strategy<Value = Sums> {
        proptest::collection::vec(any::<(u64, i64, [u8; 32])>(), 0..5).prop_map(|parts| {
            let mut sums = Sums::default();
            for (range, rows, sum) in parts {
                sums.add_part(range, &Part { rows, sum: Sum::of(&sum) });
            }
            sums
        })
    }

    fn parts(sums: &Sums) -> Vec<(u64, Part)> {
        sums.parts().map(|(range, part)| (range, *part)).collect()
    }

    fn sealed(nonce: u8, sums: &Sums) -> Vec<u8> {
        seal(&keys(), Nonce::of([nonce; 16]), 7, 9, sums).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(sums in sums()) {
            let sealed = sealed(1, &sums);
            let read = Difference::decode(&sealed).unwrap();
            prop_assert_eq!((read.incarnation, read.xid, read.rows()), (7, 9, sums.total().rows));
            prop_assert_eq!(parts(&read.open(&keys()).unwrap()), parts(&sums));
            for other in [
                LedgerKeys::unpeppered(&[1; 32], &[3; 16]),
                LedgerKeys::unpeppered(&[2; 32], &[2; 16]),
            ] {
                prop_assert!(read.open(&other).is_none());
            }
        }

        #[test]
        fn any_change_is_noticed(sums in sums(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let mut sealed = sealed(1, &sums);
            let at = at.index(sealed.len());
            sealed[at] ^= 1u8 << bit;
            prop_assert!(Difference::decode(&sealed).is_none_or(|read| read.open(&keys()).is_none()));
            sealed.truncate(at);
            prop_assert!(Difference::decode(&sealed).is_none_or(|read| read.open(&keys()).is_none()));
        }

        /// No byte of a sum is as in another difference of the same rows, but for chance.
        #[test]
        fn masks_hide_what_is_the_same(sums in sums()) {
            let (one, other) = (sealed(1, &sums), sealed(2, &sums));
            let masked = |sealed: &[u8]| -> Vec<Sum> {
                Difference::decode(sealed).unwrap().parts().map(|(_, part)| part.sum).collect()
            };
            let plain = sums.parts().map(|(_, part)| part.sum);
            for (plain, (one, other)) in plain.zip(masked(&one).into_iter().zip(masked(&other))) {
                prop_assert!(one != other && one != plain && other != plain);
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in any::<Vec<u8>>(), parts in 0u32..4, mend in any::<bool>()) {
            let mut bytes = bytes;
            if mend {
                // So long and of such a form that it is read further.
                bytes.resize(HEAD_LEN + parts as usize * PART_LEN + MAC_LEN, 0);
                bytes[0] = VERSION;
                bytes[HEAD_LEN - 4..HEAD_LEN].copy_from_slice(&parts.to_be_bytes());
            }
            if let Some(read) = Difference::decode(&bytes) {
                read.rows();
                prop_assert!(read.open(&keys()).is_none());
            }
        }
    }

    /// As after a copy of a running virtual machine, which draws the same numbers.
    #[test]
    fn a_random_part_that_repeats_masks_other_sums_in_another_way() {
        let of = |row: u8| {
            let mut sums = Sums::default();
            sums.insert(1, Sum::of(&[row; 32]));
            sealed(1, &sums)
        };
        let (one, other) = (of(1), of(2));
        let (one, other) = (Difference::decode(&one).unwrap(), Difference::decode(&other).unwrap());
        assert_ne!(one.nonce, other.nonce);
        let masked = |read: &Difference| read.parts().next().unwrap().1.sum;
        let mut apart = masked(&other);
        apart -= masked(&one);
        assert_ne!(apart.to_bytes(), [1; 32]);
        assert_eq!(of(1), of(1));
        assert_ne!(one.nonce, [1; 16]);
    }

    #[test]
    fn the_order_of_bytes_is_that_of_transactions() {
        let of = |incarnation, xid| {
            seal(&keys(), Nonce::of([0; 16]), incarnation, xid, &Sums::default()).unwrap()
        };
        assert!([of(1, 3), of(1, 256), of(2, 1), of(1 << 63, 1)].is_sorted());
    }

    #[test]
    fn nothing_comes_after_the_ranges() {
        let mut sealed = sealed(1, &Sums::default());
        assert!(Difference::decode(&sealed).is_some());
        sealed.push(0);
        assert!(Difference::decode(&sealed).is_none());
    }

    #[test]
    fn a_range_is_there_once() {
        let mut sums = Sums::default();
        sums.insert(1, Sum::of(&[1; 32]));
        sums.insert(2, Sum::of(&[2; 32]));
        let mut sealed = sealed(1, &sums);
        assert!(Difference::decode(&sealed).is_some());
        let last = HEAD_LEN + PART_LEN + 7;
        for range in [1, 0] {
            sealed[last] = range;
            assert!(Difference::decode(&sealed).is_none());
        }
    }
}
