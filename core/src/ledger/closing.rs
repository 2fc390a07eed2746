//! Closing a block: open differences become part of it, and of the sums of the ranges.

use super::block::Block;
use super::keys::{LedgerKeys, Nonce};
use super::open::Open;
use super::problem::Problem;
use super::snapshot::Snapshot;
use super::stored_range::{self, StoredRange};
use super::sums::{Part, Sums};

/// A block that is about to be closed.
pub struct Closing<'a> {
    keys: &'a LedgerKeys,
    last: Option<Block>,
    open: Open,
    change: Sums,
    incarnation: u64,
    snapshot: Snapshot,
    settings: Vec<u8>,
}

impl<'a> Closing<'a> {
    /// Begins the first block of a ledger. It takes no differences.
    pub fn first(
        keys: &'a LedgerKeys,
        incarnation: u64,
        snapshot: Snapshot,
        settings: &[u8],
    ) -> Closing<'a> {
        Closing::new(keys, None, incarnation, snapshot, settings)
    }

    /// Begins a block after the last one. It is an error if that was altered, or if the settings are
    /// others. The snapshot must be newer than that of the last block, see the differences, and have
    /// the closing transaction in progress.
    pub fn after(
        keys: &'a LedgerKeys,
        last: Block,
        incarnation: u64,
        snapshot: Snapshot,
        settings: &[u8],
    ) -> Result<Closing<'a>, Problem> {
        let block = last.number;
        if !last.is_genuine(keys) {
            return Err(Problem::BlockAltered { block });
        }
        if last.settings != settings {
            return Err(Problem::SettingsDiffer { block });
        }
        if !last.is_covered_by(incarnation, &snapshot) {
            return Err(Problem::BlockAhead { block });
        }
        Ok(Closing::new(keys, Some(last), incarnation, snapshot, settings))
    }

    fn new(
        keys: &'a LedgerKeys,
        last: Option<Block>,
        incarnation: u64,
        snapshot: Snapshot,
        settings: &[u8],
    ) -> Closing<'a> {
        let open = Open::after(last.clone(), incarnation, snapshot.clone());
        let (change, settings) = (Sums::default(), settings.to_vec());
        Closing { keys, last, open, change, incarnation, snapshot, settings }
    }

    /// Adds the rows that a table has when its ledger begins.
    pub fn add_rows(&mut self, rows: &Sums) {
        self.change.add(rows);
    }

    /// Adds a difference that the block's snapshot sees. They come in the order of their bytes. One
    /// that is refused must stay where it is, so that each check of the ledger finds it.
    pub fn add(&mut self, stored: &[u8]) -> Result<(), Problem> {
        if self.last.is_none() {
            return Err(Problem::NoBlocks);
        }
        self.change.add(&self.open.next(self.keys, stored)?);
        Ok(())
    }

    /// The block, at a time in microseconds since 2000.
    pub fn block(&self, nonce: Nonce, at: i64) -> Block {
        let mut total = self.last.as_ref().map_or(Part::default(), |last| last.total(self.keys));
        total.add(&self.change.total());
        let when = (self.incarnation, at, self.snapshot.clone());
        Block::after(self.keys, nonce, self.last.as_ref(), when, &total, &self.settings)
    }

    /// The ranges that change.
    pub fn ranges(&self) -> impl Iterator<Item = u64> {
        self.change.parts().map(|(range, _)| range)
    }

    /// Adds the change to what is stored of a range. `None` means that nothing is to be stored.
    pub fn range(
        &self,
        nonce: Nonce,
        block: &Block,
        range: u64,
        stored: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let mut part = match stored {
            None => Part::default(),
            Some(stored) => StoredRange::decode(stored)
                .filter(|read| read.range == range)
                .and_then(|read| read.open(self.keys))
                .ok_or(Problem::RangeAltered { range: Some(range) })?,
        };
        part.add(&self.change.get(range));
        let stored = || stored_range::seal(self.keys, nonce, block.number, range, &part);
        Ok((!part.is_zero()).then(stored))
    }
}

#[cfg(test)]
mod tests {
    use super::super::difference;
    use super::super::sum::Sum;
    use super::*;

    fn keys() -> LedgerKeys {
        LedgerKeys::unpeppered(&[1; 32], &[2; 16])
    }

    fn nonce() -> Nonce {
        Nonce::of([3; 16])
    }

    fn snapshot() -> Snapshot {
        Snapshot::parse("5:5:").unwrap()
    }

    const SETTINGS: &[u8] = b"settings";

    fn first(keys: &LedgerKeys) -> Closing<'_> {
        Closing::first(keys, 7, snapshot(), SETTINGS)
    }

    #[test]
    fn a_block_does_not_follow_one_that_was_altered() {
        let (keys, other) = (keys(), LedgerKeys::unpeppered(&[1; 32], &[4; 16]));
        let first = first(&keys).block(nonce(), 0);
        let after = |keys| Closing::after(keys, first.clone(), 7, snapshot(), SETTINGS).err();
        assert_eq!(after(&keys), None);
        assert_eq!(after(&other), Some(Problem::BlockAltered { block: 1 }));
    }

    #[test]
    fn a_block_has_the_settings_of_the_one_before() {
        let keys = keys();
        let first = first(&keys).block(nonce(), 0);
        let after = Closing::after(&keys, first, 7, snapshot(), b"others").err();
        assert_eq!(after, Some(Problem::SettingsDiffer { block: 1 }));
    }

    #[test]
    fn a_block_covers_what_its_incarnation_covered_before() {
        let keys = keys();
        let closed = |last: &Block, incarnation, snapshot: &str| {
            let snapshot = Snapshot::parse(snapshot).unwrap();
            let closing = Closing::after(&keys, last.clone(), incarnation, snapshot, SETTINGS);
            closing.map(|closing| closing.block(nonce(), 0))
        };
        let first = first(&keys).block(nonce(), 0);
        let ahead = |block| Err(Problem::BlockAhead { block });
        assert_eq!(closed(&first, 7, "4:4:"), ahead(1));
        assert_eq!(closed(&first, 7, "4:9:4"), ahead(1));
        assert!(closed(&first, 7, "5:9:5").is_ok());
        // Another incarnation has other transactions. Then the first one goes on from where it was.
        let second = closed(&first, 8, "3:3:").unwrap();
        assert_eq!(closed(&second, 8, "2:2:"), ahead(2));
        assert_eq!(closed(&second, 7, "4:4:"), ahead(2));
        let third = closed(&second, 7, "6:6:").unwrap();
        assert_eq!(closed(&third, 7, "5:5:"), ahead(3));
        assert_eq!(closed(&third, 8, "2:2:"), ahead(3));
        assert!(closed(&third, 8, "3:3:").is_ok() && closed(&third, 9, "1:1:").is_ok());
    }

    #[test]
    fn the_first_block_takes_no_differences() {
        let keys = keys();
        let mut first = first(&keys);
        let sealed = difference::seal(&keys, nonce(), 7, 4, &Sums::default()).unwrap();
        assert_eq!(first.add(&sealed), Err(Problem::NoBlocks));
        let first = first.block(nonce(), 0);
        let mut next = Closing::after(&keys, first, 8, snapshot(), SETTINGS).unwrap();
        let sealed = difference::seal(&keys, nonce(), 8, 4, &Sums::default()).unwrap();
        assert_eq!(next.add(&sealed), Ok(()));
    }

    #[test]
    fn a_range_is_added_to_what_is_stored_of_it() {
        let keys = keys();
        let (mut rows, part) = (Sums::default(), Part { rows: 1, sum: Sum::of(&[9; 32]) });
        rows.insert(5, part.sum);
        let mut closing = first(&keys);
        closing.add_rows(&rows);
        let block = closing.block(nonce(), 0);
        assert_eq!(block.total(&keys), part);
        assert!(closing.ranges().eq([5]));

        let range = |stored: Option<Vec<u8>>| {
            closing.range(nonce(), &block, 5, stored.as_deref()).map(|stored| {
                stored.map(|stored| StoredRange::decode(&stored).unwrap().open(&keys).unwrap())
            })
        };
        let stored = |range, part: &Part| Some(stored_range::seal(&keys, nonce(), 1, range, part));
        let mut negative = Part::default();
        negative.subtract(&part);
        assert_eq!(range(None), Ok(Some(part)));
        assert_eq!(range(stored(5, &part)).map(|part| part.map(|part| part.rows)), Ok(Some(2)));
        assert_eq!(range(stored(5, &negative)), Ok(None));
        // Neither another range's nor anything else is accepted.
        let altered = Err(Problem::RangeAltered { range: Some(5) });
        assert_eq!(range(stored(6, &part)), altered);
        assert_eq!(range(Some(vec![])), altered);
        let other = LedgerKeys::unpeppered(&[1; 32], &[4; 16]);
        assert_eq!(range(Some(stored_range::seal(&other, nonce(), 1, 5, &part))), altered);
    }
}
