//! The rows and the sum of one range at a block, as they are stored.

use super::bytes::Reader;
use super::keys::{LedgerKeys, MAC_LEN, Masked, NONCE_LEN, Nonce, is_mac, mac};
use super::sum::{SUM_LEN, Sum};
use super::sums::Part;

const VERSION: u8 = 1;
const CONTENT_LEN: usize = 1 + 8 + 8 + 8 + NONCE_LEN + SUM_LEN;

/// A range as it was read. Nothing of it is known to be genuine until it is opened.
#[derive(Clone, Copy)]
pub struct StoredRange {
    pub range: u64,
    /// The last block that changed it.
    pub block: u64,
    pub rows: i64,
    nonce: [u8; NONCE_LEN],
    masked: Sum,
    content: [u8; CONTENT_LEN],
    mac: [u8; MAC_LEN],
}

/// Writes a range.
pub fn seal(keys: &LedgerKeys, nonce: Nonce, block: u64, range: u64, part: &Part) -> Vec<u8> {
    let nonce = keys.nonce(nonce, &content(block, range, part, [0; NONCE_LEN]));
    let mut masked = *part;
    masked.sum += keys.mask(Masked::Range, &nonce, range);
    let mut written = content(block, range, &masked, nonce);
    let mac = mac(&keys.range, &written);
    written.extend_from_slice(&mac);
    written
}

fn content(block: u64, range: u64, part: &Part, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
    let mut written = Vec::with_capacity(CONTENT_LEN + MAC_LEN);
    written.push(VERSION);
    written.extend_from_slice(&range.to_be_bytes());
    written.extend_from_slice(&block.to_be_bytes());
    written.extend_from_slice(&part.rows.to_be_bytes());
    written.extend_from_slice(&nonce);
    written.extend_from_slice(&part.sum.to_bytes());
    written
}

impl StoredRange {
    pub fn decode(stored: &[u8]) -> Option<StoredRange> {
        let (content, mac) = stored.split_last_chunk()?;
        let content: [u8; CONTENT_LEN] = content.try_into().ok()?;
        let mut reader = Reader(&content);
        let version: [u8; 1] = reader.bytes()?;
        let (range, block, rows) = (reader.u64()?, reader.u64()?, reader.i64()?);
        let (nonce, masked) = (reader.bytes()?, Sum::of(&reader.bytes()?));
        let read = StoredRange { range, block, rows, nonce, masked, content, mac: *mac };
        (version == [VERSION]).then_some(read)
    }

    /// `None` if it was altered, or is another ledger's.
    pub fn open(&self, keys: &LedgerKeys) -> Option<Part> {
        let mut sum = self.masked;
        sum -= keys.mask(Masked::Range, &self.nonce, self.range);
        is_mac(&keys.range, &self.content, &self.mac).then_some(Part { rows: self.rows, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::unpeppered(&[1; 32], &[2; 16])
    }

    fn part() -> Part {
        Part { rows: 3, sum: Sum::of(&[9; 32]) }
    }

    fn stored() -> Vec<u8> {
        seal(&keys(), Nonce::of([4; 16]), 6, 5, &part())
    }

    #[test]
    fn what_is_sealed_is_opened() {
        let read = StoredRange::decode(&stored()).unwrap();
        assert_eq!((read.range, read.block, read.rows), (5, 6, 3));
        assert_eq!(read.open(&keys()), Some(part()));
        assert_eq!(read.open(&LedgerKeys::unpeppered(&[1; 32], &[3; 16])), None);
        assert_ne!(read.masked, part().sum);
    }

    #[test]
    fn a_nonce_is_for_one_content() {
        let nonce = |block, range, rows, random| {
            let part = Part { rows, ..part() };
            let stored = seal(&keys(), Nonce::of([random; 16]), block, range, &part);
            StoredRange::decode(&stored).unwrap().nonce
        };
        let all = [nonce(6, 5, 3, 4), nonce(7, 5, 3, 4), nonce(6, 6, 3, 4), nonce(6, 5, 2, 4)];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one));
        }
        assert_eq!(nonce(6, 5, 3, 4), all[0]);
        assert!(!all.contains(&nonce(6, 5, 3, 5)));
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let mut stored = stored();
            let at = at.index(stored.len());
            stored[at] ^= 1u8 << bit;
            prop_assert!(StoredRange::decode(&stored).is_none_or(|read| read.open(&keys()).is_none()));
            prop_assert!(StoredRange::decode(&stored[..at]).is_none());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in any::<Vec<u8>>()) {
            let mut bytes = bytes;
            prop_assert!(StoredRange::decode(&bytes).is_none());
            bytes.resize(CONTENT_LEN + MAC_LEN, 0);
            bytes[0] = VERSION;
            prop_assert!(StoredRange::decode(&bytes).is_some_and(|read| read.open(&keys()).is_none()));
        }
    }
}
