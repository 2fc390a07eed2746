//! A table with its ledger, for tests: honest transactions, and what an attacker without the key can do.

use super::block::Block;
use super::closing::Closing;
use super::difference;
use super::keys::{LedgerKeys, Nonce};
use super::problem::Problem;
use super::range::{Kind, Ranges};
use super::row::RowPlan;
use super::snapshot::Snapshot;
use super::sum::Sum;
use super::sums::Sums;
use super::verify::{Chain, Heads};
use std::collections::{BTreeMap, BTreeSet};

pub const HOME: u64 = 7;

#[derive(Clone)]
pub struct World {
    pub incarnation: u64,
    pub table: BTreeMap<i64, u8>,
    pub blocks: BTreeSet<Vec<u8>>,
    pub ranges: BTreeMap<u64, Vec<u8>>,
    pub open: BTreeSet<Vec<u8>>,
    /// Differences of transactions that are in progress.
    waiting: Vec<(u64, Vec<u8>)>,
    xid: u64,
    nonce: u64,
}

pub fn keys() -> LedgerKeys {
    LedgerKeys::unpeppered(&[1; 32], &[2; 16])
}

fn hash(plan: &RowPlan, key: i64, value: u8) -> (u64, Sum) {
    let contents = [key.to_be_bytes().to_vec(), vec![value]];
    let mut row = plan.begin();
    for column in plan.columns() {
        row.value(column, &contents[column.place]);
    }
    // Four keys for each range.
    let ranges = Ranges { shift: 2, ..Ranges::of(Kind::Integer) };
    (ranges.range(&contents[0]), row.finish())
}

pub fn range(key: i64) -> u64 {
    hash(&plan(), key, 0).0
}

fn plan() -> RowPlan {
    RowPlan::of(&keys(), &[(b"id", b"pg_catalog.int8"), (b"value", b"pg_catalog.bytea")])
}

impl World {
    pub fn new(rows: &[(i64, u8)]) -> World {
        let table = rows.iter().copied().collect();
        let mut world = World {
            incarnation: HOME,
            table,
            blocks: BTreeSet::new(),
            ranges: BTreeMap::new(),
            open: BTreeSet::new(),
            waiting: vec![],
            xid: 3,
            nonce: 0,
        };
        world.close_with(&world.sums());
        world
    }

    fn nonce(&mut self) -> Nonce {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        nonce[8..].copy_from_slice(&self.incarnation.to_be_bytes());
        Nonce::of(nonce)
    }

    fn sums(&self) -> Sums {
        let (plan, mut sums) = (plan(), Sums::default());
        for (key, value) in &self.table {
            let (range, hash) = hash(&plan, *key, *value);
            sums.insert(range, hash);
        }
        sums
    }

    /// Changes the table past the trigger.
    pub fn forge(&mut self, key: i64, value: Option<u8>) {
        self.table.remove(&key);
        self.table.extend(value.map(|value| (key, value)));
    }

    /// A transaction that sets or deletes keys. It stays in progress if `waits`.
    pub fn change(&mut self, changes: &[(i64, Option<u8>)], waits: bool) {
        let (plan, mut sums) = (plan(), Sums::default());
        for &(key, value) in changes {
            if let Some(old) = self.table.remove(&key) {
                let (range, hash) = hash(&plan, key, old);
                sums.remove(range, hash);
            }
            if let Some(value) = value {
                let (range, hash) = hash(&plan, key, value);
                sums.insert(range, hash);
                self.table.insert(key, value);
            }
        }
        self.xid += 1;
        let sealed = difference::seal(&keys(), self.nonce(), self.incarnation, self.xid, &sums);
        self.waiting.push((self.xid, sealed.unwrap()));
        if !waits {
            self.commit();
        }
    }

    pub fn set(&mut self, key: i64, value: u8) {
        self.change(&[(key, Some(value))], false);
    }

    pub fn delete(&mut self, key: i64) {
        self.change(&[(key, None)], false);
    }

    /// Commits the last transaction that is in progress.
    pub fn commit(&mut self) {
        self.open.extend(self.waiting.pop().map(|(_, sealed)| sealed));
    }

    pub fn commit_all(&mut self) {
        while !self.waiting.is_empty() {
            self.commit();
        }
    }

    fn now(&self) -> Snapshot {
        let waiting: Vec<_> = self.waiting.iter().map(|(xid, _)| xid.to_string()).collect();
        let xmin = self.waiting.first().map_or(self.xid + 1, |(xid, _)| *xid);
        Snapshot::parse(&format!("{xmin}:{}:{}", self.xid + 1, waiting.join(","))).unwrap()
    }

    pub fn last(&self) -> Option<Block> {
        self.blocks.last().map(|stored| Block::decode(stored).unwrap())
    }

    /// Closes a block. Returns what it refused.
    pub fn close(&mut self) -> Vec<Problem> {
        self.close_with(&Sums::default())
    }

    fn close_with(&mut self, rows: &Sums) -> Vec<Problem> {
        let keys = keys();
        self.xid += 1;
        let snapshot = self.now();
        let mut closing = Closing::after(&keys, self.last(), self.incarnation, snapshot).unwrap();
        closing.add_rows(rows);
        let mut refused = vec![];
        self.open.retain(|stored| closing.add(stored).map_err(|why| refused.push(why)).is_err());
        let block = closing.block(self.nonce(), 0);
        for range in closing.ranges() {
            let stored = self.ranges.remove(&range);
            let nonce = self.nonce();
            let stored = closing.range(nonce, &block, range, stored.as_deref()).unwrap();
            self.ranges.extend(stored.map(|stored| (range, stored)));
        }
        self.blocks.insert(block.encode());
        refused
    }

    /// Goes on with other nonces, as a transaction that is rolled back leaves it.
    pub fn skip_nonce(&mut self) {
        self.nonce += 1000;
    }

    /// The state as a dump has it, in another database.
    pub fn restored(&self, incarnation: u64) -> World {
        World { incarnation, waiting: vec![], ..self.clone() }
    }

    pub fn head(&self) -> (u64, [u8; 32]) {
        self.last().map(|last| (last.number, last.head())).unwrap()
    }

    pub fn check(&self, heads: &[(u64, [u8; 32])]) -> Vec<Problem> {
        let (keys, mut kept) = (keys(), Heads::new());
        for (number, head) in heads {
            kept.entry(*number).or_default().push(*head);
        }
        let mut chain = Chain::new(&keys, kept);
        let mut problems: Vec<_> =
            self.blocks.iter().flat_map(|stored| chain.block(stored)).collect();
        let (mut check, more) = chain.finish(self.incarnation, self.now());
        problems.extend(more);
        problems.extend(self.ranges.values().filter_map(|stored| check.range(stored).err()));
        problems.extend(self.open.iter().filter_map(|stored| check.difference(stored).err()));
        problems.extend(check.finish(self.sums()));
        problems
    }
}
