//! What a check of a ledger finds.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    NoBlocks,
    BlocksMissing {
        first: u64,
        last: u64,
    },
    /// Its bytes are not those that were written.
    BlockAltered {
        block: u64,
    },
    /// Each of two blocks is genuine, but one does not follow the other.
    ChainBroken {
        block: u64,
    },
    BlockTwice {
        block: u64,
    },
    HeadDiffers {
        block: u64,
    },
    /// There is no block of that number.
    HeadMissing {
        block: u64,
    },
    /// It covers transactions that a later snapshot of the same incarnation does not cover.
    BlockAhead {
        block: u64,
    },
    /// Another incarnation closed it, after this one had closed blocks.
    BlockForeign {
        block: u64,
    },
    /// Later settings of the ledger are not those of the block.
    SettingsDiffer {
        block: u64,
    },

    /// `xid` if it can be read at all.
    DifferenceAltered {
        xid: Option<u64>,
    },
    DifferenceTwice {
        xid: u64,
    },
    /// The last block has it already.
    DifferenceReplayed {
        xid: u64,
    },
    /// It was made in another database, or in a copy of this one that went on.
    DifferenceForeign {
        xid: u64,
    },

    /// `range` if it can be read at all.
    RangeAltered {
        range: Option<u64>,
    },
    RangeTwice {
        range: u64,
    },
    /// It was written by a block that is not there.
    RangeAhead {
        range: u64,
        block: u64,
    },
    /// The table is right, and what is stored of the range is not.
    RangeWrong {
        range: u64,
    },
    RangesDifferFromBlock {
        block: u64,
    },

    RowsMissing {
        range: u64,
        rows: u64,
    },
    RowsAdded {
        range: u64,
        rows: u64,
    },
    RowsChanged {
        range: u64,
    },
    /// The ranges don't say where.
    TableDiffers {
        rows: i64,
    },
}

impl Problem {
    /// The range of keys that it is about.
    pub fn range(&self) -> Option<u64> {
        match *self {
            Problem::RangeAltered { range } => range,
            Problem::RangeTwice { range }
            | Problem::RangeAhead { range, .. }
            | Problem::RangeWrong { range }
            | Problem::RowsMissing { range, .. }
            | Problem::RowsAdded { range, .. }
            | Problem::RowsChanged { range } => Some(range),
            _ => None,
        }
    }

    /// The block that it is about.
    pub fn block(&self) -> Option<u64> {
        match *self {
            Problem::BlocksMissing { first: block, .. }
            | Problem::BlockAltered { block }
            | Problem::ChainBroken { block }
            | Problem::BlockTwice { block }
            | Problem::HeadDiffers { block }
            | Problem::HeadMissing { block }
            | Problem::BlockAhead { block }
            | Problem::BlockForeign { block }
            | Problem::SettingsDiffer { block }
            | Problem::RangeAhead { block, .. }
            | Problem::RangesDifferFromBlock { block } => Some(block),
            _ => None,
        }
    }

    /// Whether it is about rows of the table.
    pub fn is_of_rows(&self) -> bool {
        matches!(
            self,
            Problem::RowsMissing { .. }
                | Problem::RowsAdded { .. }
                | Problem::RowsChanged { .. }
                | Problem::TableDiffers { .. }
        )
    }

    /// A sentence about the ledger. Those about a range don't name it, because callers show its keys.
    pub fn text(&self) -> String {
        match *self {
            Problem::NoBlocks => "the ledger has no blocks".into(),
            Problem::BlocksMissing { first, last } if first == last => {
                format!("block {first} is missing")
            }
            Problem::BlocksMissing { first, last } => {
                format!("blocks {first} to {last} are missing")
            }
            Problem::BlockAltered { block } => format!("block {block} was altered"),
            Problem::ChainBroken { block } => {
                format!("block {block} does not follow the block before it")
            }
            Problem::BlockTwice { block } => format!("block {block} is there twice"),
            Problem::HeadDiffers { block } => {
                format!("block {block} is not the one whose head was kept")
            }
            Problem::HeadMissing { block } => format!(
                "block {block}, whose head was kept, is not there: the table is older than the head, or \
                 blocks were removed"
            ),
            Problem::BlockAhead { block } => format!(
                "block {block} sees transactions that are ahead: a copy of the database closed it, or its \
                 place in the chain is wrong"
            ),
            Problem::BlockForeign { block } => {
                format!("block {block} was closed in a copy of the database")
            }
            Problem::SettingsDiffer { block } => {
                format!("the columns or ranges of the ledger were altered since block {block}")
            }
            Problem::DifferenceAltered { xid: Some(xid) } => {
                format!("the difference of transaction {xid} was altered")
            }
            Problem::DifferenceAltered { xid: None } => "a difference was altered".into(),
            Problem::DifferenceTwice { xid } => {
                format!("the difference of transaction {xid} is there twice")
            }
            Problem::DifferenceReplayed { xid } => format!(
                "the difference of transaction {xid} was put back: it is part of a block already"
            ),
            Problem::DifferenceForeign { xid } => {
                format!("the difference of transaction {xid} was made in a copy of the database")
            }
            Problem::RangeAltered { .. } => "the stored sum of the range was altered".into(),
            Problem::RangeTwice { .. } => "the stored sum of the range is there twice".into(),
            Problem::RangeAhead { block, .. } => {
                format!("the stored sum of the range is of block {block}, which is not there")
            }
            Problem::RangeWrong { .. } => {
                "the stored sum of the range was removed or put back; the rows are right".into()
            }
            Problem::RangesDifferFromBlock { block } => format!(
                "the stored sums do not add up to block {block}: some were altered, removed or put back"
            ),
            Problem::RowsMissing { rows, .. } => {
                format!("the table has {} fewer than the ledger", count(rows))
            }
            Problem::RowsAdded { rows, .. } => {
                format!("the table has {} more than the ledger", count(rows))
            }
            Problem::RowsChanged { .. } => "rows were changed or replaced".into(),
            Problem::TableDiffers { rows: 0 } => {
                "rows of the table were changed or replaced".into()
            }
            Problem::TableDiffers { rows } => {
                let more = if rows > 0 { "more" } else { "fewer" };
                format!("the table has {} {more} than the ledger", count(rows.unsigned_abs()))
            }
        }
    }
}

fn count(rows: u64) -> String {
    if rows == 1 { "1 row".into() } else { format!("{rows} rows") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_read_as_sentences() {
        let missing = Problem::BlocksMissing { first: 2, last: 2 };
        assert_eq!(missing.text(), "block 2 is missing");
        let fewer = Problem::TableDiffers { rows: -3 };
        assert_eq!(fewer.text(), "the table has 3 rows fewer than the ledger");
        assert_eq!((fewer.range(), Problem::RowsChanged { range: 4 }.range()), (None, Some(4)));
        let block = 3;
        for (problem, text) in [
            (
                Problem::BlockAhead { block },
                "block 3 sees transactions that are ahead: a copy of the database closed it, or its \
                 place in the chain is wrong",
            ),
            (Problem::BlockForeign { block }, "block 3 was closed in a copy of the database"),
            (
                Problem::SettingsDiffer { block },
                "the columns or ranges of the ledger were altered since block 3",
            ),
        ] {
            assert_eq!((problem.text().as_str(), problem.block()), (text, Some(block)));
            assert!(problem.range().is_none() && !problem.is_of_rows());
        }
        assert!(fewer.is_of_rows() && fewer.block().is_none());
    }
}
