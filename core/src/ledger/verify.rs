//! The check of a ledger: first its blocks, then what is stored of ranges, open differences, and the
//! table. Memory is needed for the ranges only, and for the heads that were kept.

use super::block::Block;
use super::keys::{LedgerKeys, MAC_LEN};
use super::open::Open;
use super::problem::Problem;
use super::snapshot::Snapshot;
use super::stored_range::StoredRange;
use super::sums::{Part, Sums};
use std::collections::BTreeMap;

/// Heads that were kept elsewhere, by the numbers of their blocks.
pub type Heads = BTreeMap<u64, Vec<[u8; MAC_LEN]>>;

/// Blocks that are being checked.
pub struct Chain<'a> {
    keys: &'a LedgerKeys,
    kept: Heads,
    /// The number of the highest kept head.
    kept_until: Option<u64>,
    /// The incarnation of the database.
    incarnation: u64,
    /// Whether this incarnation closed a block.
    is_own: bool,
    number: u64,
    /// The block before, if it is genuine and its number is the one before.
    before: Option<Block>,
    /// The last genuine block.
    last: Option<Block>,
}

impl<'a> Chain<'a> {
    /// `incarnation` is that of the database.
    pub fn new(keys: &'a LedgerKeys, kept: Heads, incarnation: u64) -> Chain<'a> {
        let kept_until = kept.keys().next_back().copied();
        let (number, before, last) = (0, None, None);
        Chain { keys, kept, kept_until, incarnation, is_own: false, number, before, last }
    }

    /// Checks the next block, in the order of their bytes.
    pub fn block(&mut self, stored: &[u8]) -> Vec<Problem> {
        let next = self.number.saturating_add(1);
        let read = Block::decode(stored);
        let number = read.as_ref().map_or(next, |block| block.number);
        let Some(block) = read.filter(|block| block.is_genuine(self.keys)) else {
            if number == next {
                self.kept.remove(&number);
                (self.number, self.before) = (number, None);
            }
            return vec![Problem::BlockAltered { block: number }];
        };
        if number < next {
            return vec![Problem::BlockTwice { block: number }];
        }
        let mut problems = Vec::new();
        if number > next {
            problems.push(Problem::BlocksMissing { first: next, last: number - 1 });
        } else if (self.before.is_some() || number == 1) && !block.follows(self.before.as_ref()) {
            problems.push(Problem::ChainBroken { block: number });
        } else if let Some(before) = &self.before {
            problems.extend(ahead(before, block.incarnation, &block.snapshot));
            problems.extend(altered(before, &block.settings));
        }
        if block.incarnation == self.incarnation {
            self.is_own = true;
        } else if self.is_own && self.kept_until < Some(number) {
            problems.push(Problem::BlockForeign { block: number });
        }
        let kept = self.kept.remove(&number).unwrap_or_default();
        if kept.iter().any(|head| *head != block.head()) {
            problems.push(Problem::HeadDiffers { block: number });
        }
        self.number = number;
        self.before = Some(block.clone());
        self.last = Some(block);
        problems
    }

    /// Goes on to the table, after the last block. `now` is the snapshot that sees all, and `settings`
    /// are those of the ledger.
    pub fn finish(self, now: Snapshot, settings: &[u8]) -> (Check<'a>, Vec<Problem>) {
        let missing = self.kept.keys().map(|number| Problem::HeadMissing { block: *number });
        let mut problems: Vec<_> = missing.collect();
        if self.number == 0 {
            problems.push(Problem::NoBlocks);
        }
        if let Some(last) = &self.last {
            problems.extend(ahead(last, self.incarnation, &now));
            problems.extend(altered(last, settings));
        }
        let open = Open::after(self.last.clone(), self.incarnation, now);
        let check = Check {
            keys: self.keys,
            last: self.last,
            open,
            ranges: Sums::default(),
            change: Sums::default(),
        };
        (check, problems)
    }
}

/// The problem if a block sees more of an incarnation than a snapshot that was taken later.
fn ahead(block: &Block, incarnation: u64, later: &Snapshot) -> Option<Problem> {
    let is_ahead = !block.is_covered_by(incarnation, later);
    is_ahead.then_some(Problem::BlockAhead { block: block.number })
}

/// The problem if the settings after a block are not those that it has.
fn altered(block: &Block, settings: &[u8]) -> Option<Problem> {
    let is_altered = block.settings != settings;
    is_altered.then_some(Problem::SettingsDiffer { block: block.number })
}

/// A table that is being checked.
#[derive(Clone)]
pub struct Check<'a> {
    keys: &'a LedgerKeys,
    last: Option<Block>,
    open: Open,
    ranges: Sums,
    change: Sums,
}

impl Check<'_> {
    /// Takes what is stored of a range.
    pub fn range(&mut self, stored: &[u8]) -> Result<(), Problem> {
        let read = StoredRange::decode(stored).ok_or(Problem::RangeAltered { range: None })?;
        let range = read.range;
        let part = read.open(self.keys).ok_or(Problem::RangeAltered { range: Some(range) })?;
        if self.ranges.has(range) {
            return Err(Problem::RangeTwice { range });
        }
        self.ranges.add_part(range, &part);
        let is_ahead = self.last.as_ref().is_some_and(|last| read.block > last.number);
        if is_ahead { Err(Problem::RangeAhead { range, block: read.block }) } else { Ok(()) }
    }

    /// Takes an open difference. They come in the order of their bytes.
    pub fn difference(&mut self, stored: &[u8]) -> Result<(), Problem> {
        self.change.add(&self.open.next(self.keys, stored)?);
        Ok(())
    }

    /// Compares with the sums of the table's rows.
    pub fn finish(self, table: Sums) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut rest = table.total();
        let mut wrong = table;
        wrong.subtract(&self.ranges);
        wrong.subtract(&self.change);
        let mut is_table_right = false;
        if let Some(last) = self.last {
            let mut total = last.total(self.keys);
            let adds_up = self.ranges.total() == total;
            total.add(&self.change.total());
            rest.subtract(&total);
            is_table_right = rest.is_zero();
            if !adds_up {
                problems.push(Problem::RangesDifferFromBlock { block: last.number });
                if !is_table_right {
                    problems.push(Problem::TableDiffers { rows: rest.rows });
                }
            }
        }
        problems.extend(wrong.parts().map(|(range, part)| found(range, part, is_table_right)));
        problems
    }
}

/// The problem of a range, by what the table has more than the ledger.
fn found(range: u64, more: &Part, is_table_right: bool) -> Problem {
    let rows = more.rows.unsigned_abs();
    match more.rows {
        _ if is_table_right => Problem::RangeWrong { range },
        0 => Problem::RowsChanged { range },
        1.. => Problem::RowsAdded { range, rows },
        _ => Problem::RowsMissing { range, rows },
    }
}

#[cfg(test)]
mod tests;
