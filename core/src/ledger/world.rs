//! A table with its ledger, for tests: honest transactions, and what an attacker without the key can do.

use super::block::Block;
use super::closing::Closing;
use super::difference;
use super::keys::{LedgerKeys, Nonce};
use super::problem::Problem;
use super::range::{Kind, Ranges};
use super::row::RowPlan;
use super::settings::settings;
use super::snapshot::Snapshot;
use super::sum::Sum;
use super::sums::Sums;
use super::verify::{Chain, Heads};
use std::collections::{BTreeMap, BTreeSet};

pub const HOME: u64 = 7;

/// Four keys for each range.
const SHIFT: u8 = 2;

#[derive(Clone)]
pub struct World {
    pub incarnation: u64,
    pub table: BTreeMap<i64, u8>,
    pub blocks: BTreeSet<Vec<u8>>,
    pub ranges: BTreeMap<u64, Vec<u8>>,
    pub open: BTreeSet<Vec<u8>>,
    pub settings: Vec<u8>,
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
    let ranges = Ranges { shift: SHIFT, ..Ranges::of(Kind::Integer) };
    (ranges.range(&contents[0]), row.finish())
}

pub fn range(key: i64) -> u64 {
    hash(&plan(), key, 0).0
}

fn plan() -> RowPlan {
    RowPlan::of(&keys(), &[(b"id", b"bigint"), (b"value", b"pg_catalog.bytea")])
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
            settings: settings("id", SHIFT, &[]),
            waiting: vec![],
            xid: 3,
            nonce: 0,
        };
        let keys = keys();
        let mut first = Closing::first(&keys, HOME, world.now(), &world.settings);
        first.add_rows(&world.sums());
        world.write(&first);
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

    /// Whether all that a snapshot covers is past here.
    pub fn is_past(&self, snapshot: &Snapshot) -> bool {
        self.now().covers_all(snapshot)
    }

    pub fn last(&self) -> Option<Block> {
        self.blocks.last().map(|stored| Block::decode(stored).unwrap())
    }

    /// Closes a block. Returns what it refused.
    pub fn close(&mut self) -> Vec<Problem> {
        let keys = keys();
        self.xid += 1;
        let Some(last) = self.last() else { return vec![Problem::NoBlocks] };
        let closing = Closing::after(&keys, last, self.incarnation, self.now(), &self.settings);
        let mut closing = match closing {
            Ok(closing) => closing,
            Err(problem) => return vec![problem],
        };
        let mut refused = vec![];
        self.open.retain(|stored| closing.add(stored).map_err(|why| refused.push(why)).is_err());
        self.write(&closing);
        refused
    }

    fn write(&mut self, closing: &Closing) {
        let block = closing.block(self.nonce(), 0);
        for range in closing.ranges() {
            let stored = self.ranges.remove(&range);
            let nonce = self.nonce();
            let stored = closing.range(nonce, &block, range, stored.as_deref()).unwrap();
            self.ranges.extend(stored.map(|stored| (range, stored)));
        }
        self.blocks.insert(block.encode());
    }

    /// Uses up transaction ids without differences.
    pub fn skip(&mut self, count: u64) {
        self.xid += count;
    }

    /// Goes on with other nonces, as a transaction that is rolled back leaves it.
    pub fn skip_nonce(&mut self) {
        self.nonce += 1000;
    }

    /// The state as a dump has it, or a database that was made of this one: in another database.
    pub fn restored(&self, incarnation: u64) -> World {
        World { incarnation, waiting: vec![], ..self.clone() }
    }

    /// This database, with the table and the ledger of another state.
    pub fn replaced(&self, other: &World) -> World {
        World { incarnation: self.incarnation, xid: self.xid, waiting: vec![], ..other.clone() }
    }

    pub fn head(&self) -> (u64, [u8; 32]) {
        self.last().map(|last| (last.number, last.head())).unwrap()
    }

    pub fn check(&self, heads: &[(u64, [u8; 32])]) -> Vec<Problem> {
        let (keys, mut kept) = (keys(), Heads::new());
        for (number, head) in heads {
            kept.entry(*number).or_default().push(*head);
        }
        let mut chain = Chain::new(&keys, kept, self.incarnation);
        let mut problems: Vec<_> =
            self.blocks.iter().flat_map(|stored| chain.block(stored)).collect();
        let (mut check, more) = chain.finish(self.now(), &self.settings);
        problems.extend(more);
        problems.extend(self.ranges.values().filter_map(|stored| check.range(stored).err()));
        problems.extend(self.open.iter().filter_map(|stored| check.difference(stored).err()));
        problems.extend(check.finish(self.sums()));
        problems
    }
}
