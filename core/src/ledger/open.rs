//! Open differences: those that are in no block yet.

use super::block::Block;
use super::difference::Difference;
use super::keys::LedgerKeys;
use super::problem::Problem;
use super::snapshot::Snapshot;
use super::sums::Sums;

/// Differences that are being read, in the order of their bytes.
#[derive(Clone)]
pub struct Open {
    last: Option<Block>,
    incarnation: u64,
    now: Snapshot,
    before: Option<(u64, u64)>,
}

impl Open {
    /// `last` is the last block, `incarnation` that of the database, and `now` the snapshot that sees
    /// the differences.
    pub fn after(last: Option<Block>, incarnation: u64, now: Snapshot) -> Open {
        Open { last, incarnation, now, before: None }
    }

    /// Takes the next difference: the sums that it adds, if it is genuine and counts.
    pub fn next(&mut self, keys: &LedgerKeys, stored: &[u8]) -> Result<Sums, Problem> {
        let altered = |xid| Problem::DifferenceAltered { xid };
        let read = Difference::decode(stored).ok_or(altered(None))?;
        let xid = read.xid;
        let sums = read.open(keys).ok_or(altered(Some(xid)))?;
        let place = (read.incarnation, xid);
        if self.before >= Some(place) {
            return Err(Problem::DifferenceTwice { xid });
        }
        self.before = Some(place);
        let is_own = read.incarnation == self.incarnation;
        if is_own && !self.now.covers(xid) {
            return Err(Problem::DifferenceForeign { xid });
        }
        let Some(last) = &self.last else { return Ok(sums) };
        if last.snapshot_of(read.incarnation).is_some_and(|closed| closed.covers(xid)) {
            return Err(Problem::DifferenceReplayed { xid });
        }
        // If it is not the last block's, the database was restored from a dump, and has closed no
        // block yet.
        let counts = is_own || read.incarnation == last.incarnation;
        if counts { Ok(sums) } else { Err(Problem::DifferenceForeign { xid }) }
    }
}
