//! Blocks: what a table was at a time. Each has a MAC that covers the one before it.

use super::bytes::{self, Reader};
use super::keys::{LedgerKeys, MAC_LEN, Masked, NONCE_LEN, Nonce, is_mac, mac};
use super::snapshot::Snapshot;
use super::sum::Sum;
use super::sums::Part;
use std::collections::BTreeMap;

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
    /// The last snapshot of each other incarnation that closed blocks before.
    earlier: BTreeMap<u64, Snapshot>,
    pub rows: i64,
    /// What the ledger covers, as `settings` writes it.
    pub settings: Vec<u8>,
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
        settings: &[u8],
    ) -> Block {
        let mut block = Block {
            number: last.map_or(1, |last| last.number.saturating_add(1)),
            incarnation,
            at,
            snapshot,
            earlier: last.map_or_else(BTreeMap::new, |last| last.before(incarnation)),
            rows: total.rows,
            settings: settings.to_vec(),
            nonce: [0; NONCE_LEN],
            masked: total.sum,
            previous: last.map_or(START, |last| last.mac),
            mac: START,
        };
        block.nonce = keys.nonce(nonce, &block.content());
        block.masked += keys.mask(Masked::Block, &block.nonce, 0);
        block.mac = mac(&keys.block, &block.content());
        block
    }

    /// The list of a next block, which another or the same incarnation closes.
    fn before(&self, incarnation: u64) -> BTreeMap<u64, Snapshot> {
        let mut earlier = self.earlier.clone();
        earlier.insert(self.incarnation, self.snapshot.clone());
        earlier.remove(&incarnation);
        earlier
    }

    /// The last snapshot with which an incarnation closed a block.
    pub fn snapshot_of(&self, incarnation: u64) -> Option<&Snapshot> {
        let is_its = incarnation == self.incarnation;
        if is_its { Some(&self.snapshot) } else { self.earlier.get(&incarnation) }
    }

    /// Whether a snapshot of an incarnation is as new as the one with which that closed its last
    /// block.
    pub fn is_covered_by(&self, incarnation: u64, snapshot: &Snapshot) -> bool {
        self.snapshot_of(incarnation).is_none_or(|closed| snapshot.covers_all(closed))
    }

    /// All that the MAC covers.
    fn content(&self) -> Vec<u8> {
        let snapshot = self.snapshot.to_string();
        let mut content = Vec::with_capacity(256 + snapshot.len() + self.settings.len());
        content.push(VERSION);
        content.extend_from_slice(&self.number.to_be_bytes());
        content.extend_from_slice(&self.incarnation.to_be_bytes());
        content.extend_from_slice(&self.at.to_be_bytes());
        bytes::sized(&mut content, snapshot.as_bytes());
        content.extend_from_slice(&bytes::length(self.earlier.len()));
        for (incarnation, snapshot) in &self.earlier {
            content.extend_from_slice(&incarnation.to_be_bytes());
            bytes::sized(&mut content, snapshot.to_string().as_bytes());
        }
        content.extend_from_slice(&self.rows.to_be_bytes());
        bytes::sized(&mut content, &self.settings);
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
        let snapshot = read_snapshot(&mut reader)?;
        let mut earlier = BTreeMap::new();
        for _ in 0..reader.length()? {
            let other = reader.u64()?;
            if other == incarnation
                || earlier.last_key_value().is_some_and(|(last, _)| *last >= other)
            {
                return None;
            }
            earlier.insert(other, read_snapshot(&mut reader)?);
        }
        let rows = reader.i64()?;
        let settings = reader.sized()?.to_vec();
        let (nonce, masked) = (reader.bytes()?, Sum::of(&reader.bytes()?));
        let (previous, mac) = (reader.bytes()?, reader.bytes()?);
        reader.end()?;
        let block = Block {
            number,
            incarnation,
            at,
            snapshot,
            earlier,
            rows,
            settings,
            nonce,
            masked,
            previous,
            mac,
        };
        (version == [VERSION] && number > 0).then_some(block)
    }

    /// Whether it is as a holder of the key wrote it.
    pub fn is_genuine(&self, keys: &LedgerKeys) -> bool {
        is_mac(&keys.block, &self.content(), &self.mac)
    }

    /// Whether its number, its list of incarnations and the MAC before are as they must be after
    /// another block, or in the first one.
    pub fn follows(&self, last: Option<&Block>) -> bool {
        let (number, previous) = last.map_or((0, START), |last| (last.number, last.mac));
        let earlier = last.map_or_else(BTreeMap::new, |last| last.before(self.incarnation));
        number.checked_add(1) == Some(self.number)
            && self.previous == previous
            && self.earlier == earlier
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

fn read_snapshot(reader: &mut Reader) -> Option<Snapshot> {
    Snapshot::parse(str::from_utf8(reader.sized()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::unpeppered(&[1; 32], &[2; 16])
    }

    fn closed(last: Option<&Block>, incarnation: u64, snapshot: &str, part: &Part) -> Block {
        let when = (incarnation, -5, Snapshot::parse(snapshot).unwrap());
        Block::after(&keys(), Nonce::of([4; 16]), last, when, part, b"settings")
    }

    fn block(last: Option<&Block>, part: &Part) -> Block {
        closed(last, 7, "10:20:10,14", part)
    }

    /// One that has seen two other incarnations.
    fn third() -> Block {
        let first = block(None, &part());
        let second = closed(Some(&first), 9, "5:5:", &part());
        closed(Some(&second), 8, "30:31:30", &part())
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
        // The same random part makes other nonces.
        assert_ne!(first.nonce, second.nonce);
    }

    #[test]
    fn a_block_has_the_last_snapshot_of_each_incarnation() {
        let third = third();
        assert_eq!(Block::decode(&third.encode()).as_ref(), Some(&third));
        let texts = |block: &Block| {
            [7, 8, 9, 10]
                .map(|of| block.snapshot_of(of).map(Snapshot::to_string).unwrap_or_default())
        };
        assert_eq!(texts(&third), ["10:20:10,14", "30:31:30", "5:5:", ""]);
        let again = closed(Some(&third), 7, "40:40:", &part());
        assert_eq!(texts(&again), ["40:40:", "30:31:30", "5:5:", ""]);
        let same = closed(Some(&again), 7, "50:50:", &part());
        assert_eq!(texts(&same), ["50:50:", "30:31:30", "5:5:", ""]);
        for (last, next) in [(&third, &again), (&again, &same)] {
            assert!(next.follows(Some(last)) && next.is_genuine(&keys()));
            assert_eq!(Block::decode(&next.encode()).as_ref(), Some(next));
        }
    }

    /// The key alone does not make a block that follows: its list must be that of the one before.
    #[test]
    fn a_list_follows_from_the_block_before() {
        let last = third();
        let next = || closed(Some(&last), 8, "40:40:", &part());
        assert!(next().follows(Some(&last)));
        let snapshot = || Snapshot::parse("1:1:").unwrap();
        let changes: [&dyn Fn(&mut Block); 3] = [
            &|block| drop(block.earlier.remove(&7)),
            &|block| drop(block.earlier.insert(7, snapshot())),
            &|block| drop(block.earlier.insert(6, snapshot())),
        ];
        for change in changes {
            let mut block = next();
            change(&mut block);
            block.mac = mac(&keys().block, &block.content());
            let read = Block::decode(&block.encode()).unwrap();
            assert!(read.is_genuine(&keys()) && !read.follows(Some(&last)));
        }
        let mut first = block(None, &part());
        first.earlier.insert(6, snapshot());
        assert!(!first.follows(None));
    }

    #[test]
    fn a_list_has_one_form() {
        let read = |list: &[u64]| {
            let mut written = block(None, &part()).content();
            let mut listed = bytes::length(list.len()).to_vec();
            for incarnation in list {
                listed.extend_from_slice(&incarnation.to_be_bytes());
                bytes::sized(&mut listed, b"5:5:");
            }
            let at = 25 + 4 + "10:20:10,14".len();
            written.splice(at..at + 4, listed);
            written.extend([0; MAC_LEN]);
            Block::decode(&written).is_some()
        };
        assert!(read(&[]) && read(&[6]) && read(&[6, 8]));
        // Neither twice, nor unsorted, nor with the block's own.
        assert!(!read(&[6, 6]) && !read(&[8, 6]) && !read(&[7]) && !read(&[6, 7, 8]));
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
            let mut stored = third().encode();
            let at = at.index(stored.len());
            stored[at] ^= 1u8 << bit;
            prop_assert!(Block::decode(&stored).is_none_or(|read| !read.is_genuine(&keys())));
            prop_assert!(Block::decode(&stored[..at]).is_none());
        }

        #[test]
        fn any_bytes_can_be_read(
            bytes in any::<Vec<u8>>(), text in "[0-9:,]{0,9}", count in 0u8..3, mend in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if mend {
                bytes.resize(25, 0);
                bytes[0] = VERSION;
                bytes::sized(&mut bytes, text.as_bytes());
                bytes.extend([0, 0, 0, count]);
                for incarnation in 0..count {
                    bytes.extend([1, 0, 0, 0, 0, 0, 0, incarnation]);
                    bytes::sized(&mut bytes, b"5:5:");
                }
                bytes.resize(bytes.len() + 8, 0);
                bytes::sized(&mut bytes, text.as_bytes());
                bytes.resize(bytes.len() + 16 + 3 * 32, 0);
            }
            if let Some(read) = Block::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
                prop_assert!(!read.is_genuine(&keys()));
            }
        }
    }
}
