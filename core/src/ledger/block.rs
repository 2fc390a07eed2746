//! Blocks: what a table was at a time. Each has a MAC that covers the one before it.

use super::bytes::{self, Reader};
use super::keys::{LedgerKeys, MAC_LEN, Masked, NONCE_LEN, Nonce, is_mac, mac};
use super::snapshot::Snapshot;
use super::sum::Sum;
use super::sums::Part;

const VERSION: u8 = 1;

/// The MAC before the first block.
const START: [u8; MAC_LEN] = [0; MAC_LEN];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// The first is 1.
    pub number: u64,
    /// The database that closed it.
    pub incarnation: u64,
    /// When, in microseconds since the year 2000.
    pub at: i64,
    /// It covers the transactions whose differences are in the sum.
    pub snapshot: Snapshot,
    pub rows: i64,
    nonce: [u8; NONCE_LEN],
    masked: Sum,
    previous: [u8; MAC_LEN],
    mac: [u8; MAC_LEN],
}

impl Block {
    /// The block after another one, or the first.
    pub fn after(
        keys: &LedgerKeys,
        nonce: Nonce,
        last: Option<&Block>,
        (incarnation, at, snapshot): (u64, i64, Snapshot),
        total: &Part,
    ) -> Block {
        let nonce = nonce.spent();
        let mut masked = total.sum;
        masked += keys.mask(Masked::Block, &nonce, 0);
        let mut block = Block {
            number: last.map_or(1, |last| last.number.saturating_add(1)),
            incarnation,
            at,
            snapshot,
            rows: total.rows,
            nonce,
            masked,
            previous: last.map_or(START, |last| last.mac),
            mac: START,
        };
        block.mac = mac(&keys.block, &block.content());
        block
    }

    /// All that the MAC covers.
    fn content(&self) -> Vec<u8> {
        let snapshot = self.snapshot.to_string();
        let mut content = Vec::with_capacity(192 + snapshot.len());
        content.push(VERSION);
        content.extend_from_slice(&self.number.to_be_bytes());
        content.extend_from_slice(&self.incarnation.to_be_bytes());
        content.extend_from_slice(&self.at.to_be_bytes());
        content.extend_from_slice(&bytes::length(snapshot.len()));
        content.extend_from_slice(snapshot.as_bytes());
        content.extend_from_slice(&self.rows.to_be_bytes());
        content.extend_from_slice(&self.nonce);
        content.extend_from_slice(&self.masked.to_bytes());
        content.extend_from_slice(&self.previous);
        content
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut stored = self.content();
        stored.extend_from_slice(&self.mac);
        stored
    }

    pub fn decode(stored: &[u8]) -> Option<Block> {
        let mut reader = Reader(stored);
        let version: [u8; 1] = reader.bytes()?;
        let (number, incarnation, at) = (reader.u64()?, reader.u64()?, reader.i64()?);
        let length = reader.length()?;
        let snapshot = Snapshot::parse(str::from_utf8(reader.slice(length)?).ok()?)?;
        let rows = reader.i64()?;
        let (nonce, masked) = (reader.bytes()?, Sum::of(&reader.bytes()?));
        let (previous, mac) = (reader.bytes()?, reader.bytes()?);
        reader.end()?;
        let block = Block { number, incarnation, at, snapshot, rows, nonce, masked, previous, mac };
        (version == [VERSION] && number > 0).then_some(block)
    }

    /// Whether it is as a holder of the key wrote it.
    pub fn is_genuine(&self, keys: &LedgerKeys) -> bool {
        is_mac(&keys.block, &self.content(), &self.mac)
    }

    pub fn follows(&self, last: Option<&Block>) -> bool {
        let (number, previous) = last.map_or((0, START), |last| (last.number, last.mac));
        number.checked_add(1) == Some(self.number) && self.previous == previous
    }

    /// The rows of the table then. Their number and their sum.
    pub fn total(&self, keys: &LedgerKeys) -> Part {
        let mut sum = self.masked;
        sum -= keys.mask(Masked::Block, &self.nonce, 0);
        Part { rows: self.rows, sum }
    }

    /// What to keep elsewhere. It proves this block and all before it.
    pub fn head(&self) -> [u8; MAC_LEN] {
        self.mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::unpeppered(&[1; 32], &[2; 16])
    }

    fn block(last: Option<&Block>, part: &Part) -> Block {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        Block::after(&keys(), Nonce::of([4; 16]), last, (7, -5, snapshot), part)
    }

    fn part() -> Part {
        Part { rows: -3, sum: Sum::of(&[9; 32]) }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let first = block(None, &part());
        let second = block(Some(&first), &Part::default());
        for block in [&first, &second] {
            assert_eq!(Block::decode(&block.encode()).as_ref(), Some(block));
            assert!(block.is_genuine(&keys()));
            assert!(!block.is_genuine(&LedgerKeys::unpeppered(&[1; 32], &[3; 16])));
        }
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!((first.total(&keys()), second.total(&keys())), (part(), Part::default()));
        assert!(first.follows(None) && second.follows(Some(&first)));
        assert!(!second.follows(None) && !first.follows(Some(&second)));
        let fork = block(Some(&first), &part());
        assert!(!block(Some(&second), &part()).follows(Some(&fork)));
        assert!(first.encode() < second.encode());
    }

    #[test]
    fn the_first_block_is_1() {
        let mut stored = block(None, &part()).encode();
        stored[8] = 0;
        assert!(Block::decode(&stored).is_none());
        stored[8] = 2;
        assert!(Block::decode(&stored).is_some());
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let mut stored = block(None, &part()).encode();
            let at = at.index(stored.len());
            stored[at] ^= 1u8 << bit;
            prop_assert!(Block::decode(&stored).is_none_or(|read| !read.is_genuine(&keys())));
            prop_assert!(Block::decode(&stored[..at]).is_none());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in any::<Vec<u8>>(), text in "[0-9:,]{0,9}", mend in any::<bool>()) {
            let mut bytes = bytes;
            if mend {
                bytes.resize(25, 0);
                bytes[0] = VERSION;
                bytes.extend_from_slice(&bytes::length(text.len()));
                bytes.extend_from_slice(text.as_bytes());
                bytes.resize(bytes.len() + 8 + 16 + 3 * 32, 0);
            }
            if let Some(read) = Block::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
                prop_assert!(!read.is_genuine(&keys()));
            }
        }
    }
}
