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
}

impl<'a> Closing<'a> {
    /// Begins a block after the last one. It is an error if that was altered.
    pub fn after(
        keys: &'a LedgerKeys,
        last: Option<Block>,
        incarnation: u64,
    ) -> Result<Closing<'a>, Problem> {
        if let Some(last) = last.as_ref().filter(|last| !last.is_genuine(keys)) {
            return Err(Problem::BlockAltered { block: last.number });
        }
        let open = Open::after(last.clone(), incarnation);
        Ok(Closing { keys, last, open, change: Sums::default(), incarnation })
    }

    /// Adds the rows that a table has when its ledger begins.
    pub fn add_rows(&mut self, rows: &Sums) {
        self.change.add(rows);
    }

    /// Adds a difference that the block's snapshot sees. They come in the order of their bytes. One
    /// that is refused must stay where it is, so that each check of the ledger finds it.
    pub fn add(&mut self, stored: &[u8]) -> Result<(), Problem> {
        self.change.add(&self.open.next(self.keys, stored)?);
        Ok(())
    }

    /// The block, at a time in microseconds since 2000.
    pub fn block(&self, nonce: Nonce, at: i64, snapshot: Snapshot) -> Block {
        let mut total = self.last.as_ref().map_or(Part::default(), |last| last.total(self.keys));
        total.add(&self.change.total());
        let when = (self.incarnation, at, snapshot);
        Block::after(self.keys, nonce, self.last.as_ref(), when, &total)
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
