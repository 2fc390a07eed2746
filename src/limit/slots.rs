//! Slots of concurrent requests: which transactions in progress have one, in shared memory.
//!
//! A slot belongs to the transaction that took it: see `keysmith_core::slots`. The end of the
//! transaction frees it, and so does the rollback of the savepoint that it was taken after.

use super::Left;
use keysmith_core::claims::Bound;
use keysmith_core::policy::weights::CALLS;
use keysmith_core::slots::{self, Held, Holder, IDLE};
use pg::server;
use pg::shmem::{Guarded, Region, Writing, shareable};
use pg::transaction;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub static REGION: Region<Header, Place> =
    Region::new(c"keysmith slots", || Ok(Header { begun: AtomicU32::new(0) }))
        .with_elements(server::most_processes, |n, locks| Place {
            turn: locks.guard(n, 0),
            held: Held::new(),
        })
        .with_locks();

shareable! {
    pub struct Header {
        /// No process with this number, or a greater one, has ever had a slot.
        begun: AtomicU32,
    }

    /// What a process holds. The lock has nothing to do with that process: it is that of the
    /// buckets whose hashes choose it.
    pub struct Place {
        turn: Guarded<u8>,
        held: Held,
    }
}

/// A limit of concurrent requests that a decision is held to.
#[derive(Clone, Copy)]
pub struct SlotClaim<'a> {
    pub name: &'a [u8],
    pub limit: u32,
    /// A request that counts for nothing takes no slot.
    pub weight: u32,
    pub bucket: u64,
}

/// The answer about all claims of a decision.
pub enum Outcome<'a> {
    /// The limit with the fewest slots left.
    Passed(Left<'a>),
    Refused(Left<'a>),
    /// There is no room, or no table.
    Unavailable,
}

/// A slot of this transaction, and the subtransaction that it ends with.
struct Note {
    bucket: u64,
    subtransaction: u32,
}

thread_local! {
    /// The slots of the transaction `holder`.
    static NOTES: RefCell<(Holder, Vec<Note>)> = const { RefCell::new((IDLE, Vec::new())) };
}

/// What this process may have, and what all processes have.
struct Table {
    header: &'static Header,
    places: &'static [Place],
    mine: &'static Place,
    number: usize,
    holder: Holder,
}

impl Table {
    /// `None` if the library is not preloaded.
    fn shared() -> Option<Table> {
        let (header, places) = REGION.whole()?;
        let number = server::my_number();
        let mine = places.get(number)?;
        let holder = server::transaction_of(number);
        (holder != IDLE).then_some(Table { header, places, mine, number, holder })
    }

    /// Takes the locks of the claims' buckets in the order of their numbers, so that sessions don't
    /// wait in a circle.
    fn lock(&self, claims: &[SlotClaim]) -> Vec<Writing<'static, u8>> {
        let lock = |claim: &SlotClaim| {
            usize::try_from(claim.bucket % self.places.len().max(1) as u64).unwrap_or(0)
        };
        let mut numbers: Vec<usize> = claims.iter().map(lock).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut locked = Vec::with_capacity(numbers.len());
        locked.extend(numbers.iter().filter_map(|n| self.places.get(*n)).map(|it| it.turn.write()));
        locked
    }

    /// How many slots of a bucket are taken.
    fn taken(&self, bucket: u64) -> u32 {
        let begun = usize::try_from(self.header.begun.load(Relaxed)).unwrap_or(usize::MAX);
        let processes = self.places.iter().enumerate().take(begun);
        slots::taken(bucket, processes.map(|(n, place)| (&place.held, server::transaction_of(n))))
    }

    /// What is left for each claim after it is granted; or the limit that refuses. The locks are held.
    fn look<'a>(&self, claims: &[SlotClaim<'a>]) -> Outcome<'a> {
        let mut tightest: Option<Left> = None;
        for claim in claims {
            let has = self.mine.held.has(claim.bucket, self.holder);
            let weight = u32::from(claim.weight != 0 && !has);
            let left = claim.limit.saturating_sub(self.taken(claim.bucket));
            let standing = |remaining| Left {
                name: claim.name,
                unit: CALLS,
                bound: Bound::Concurrent(claim.limit),
                weight,
                remaining,
                reset: None,
            };
            if left < weight {
                return Outcome::Refused(standing(left));
            }
            let standing = standing(left - weight);
            if tightest.is_none_or(|tightest| standing.is_tighter(&tightest)) {
                tightest = Some(standing);
            }
        }
        tightest.map_or(Outcome::Unavailable, Outcome::Passed)
    }
}

/// Takes a slot of each claim for this transaction, unless it has one, or none. Adds the buckets of
/// those that it took to `taken`.
pub fn take<'a>(claims: &[SlotClaim<'a>], taken: &mut Vec<u64>) -> Outcome<'a> {
    let Some(table) = Table::shared() else { return Outcome::Unavailable };
    taken.reserve(claims.len());
    let locked = table.lock(claims);
    let Table { header, mine, holder, .. } = table;
    mine.held.begin(holder);
    header.begun.fetch_max(u32::try_from(table.number + 1).unwrap_or(u32::MAX), Relaxed);
    let mut outcome = table.look(claims);
    if matches!(outcome, Outcome::Passed(_)) {
        for claim in claims.iter().filter(|claim| claim.weight != 0) {
            if mine.held.has(claim.bucket, holder) {
                continue;
            }
            if !mine.held.put(claim.bucket) {
                taken.drain(..).for_each(|bucket| mine.held.free(bucket));
                outcome = Outcome::Unavailable;
                break;
            }
            taken.push(claim.bucket);
        }
    }
    drop(locked);
    note(holder, taken);
    outcome
}

/// Answers as `take` would, except that there may be no room, and takes nothing.
pub fn peek<'a>(claims: &[SlotClaim<'a>]) -> Outcome<'a> {
    let Some(table) = Table::shared() else { return Outcome::Unavailable };
    let _locked = table.lock(claims);
    table.look(claims)
}

/// Gives back what `take` took.
pub fn give_back(taken: &[u64]) {
    if taken.is_empty() {
        return;
    }
    let Some(table) = Table::shared() else { return };
    taken.iter().for_each(|bucket| table.mine.held.free(*bucket));
    NOTES.with_borrow_mut(|(_, notes)| notes.retain(|note| !taken.contains(&note.bucket)));
}

fn note(holder: Holder, taken: &[u64]) {
    if taken.is_empty() {
        return;
    }
    let subtransaction = transaction::current_subtransaction();
    NOTES.with_borrow_mut(|(of, notes)| {
        if *of != holder {
            *of = holder;
            notes.clear();
        }
        notes.extend(taken.iter().map(|bucket| Note { bucket: *bucket, subtransaction }));
    });
}

/// A savepoint was released: its slots are those of what is around it.
pub fn released(ended: u32, parent: u32) {
    NOTES.with_borrow_mut(|(_, notes)| {
        for note in notes.iter_mut().filter(|note| note.subtransaction == ended) {
            note.subtransaction = parent;
        }
    });
}

/// A savepoint was rolled back: the slots that were taken after it are free.
pub fn rolled_back(ended: u32) {
    NOTES.with_borrow_mut(|(of, notes)| {
        if notes.is_empty() {
            return;
        }
        // The notes may be those of an earlier transaction, whose slots are free already.
        let table = Table::shared().filter(|table| table.holder == *of);
        notes.retain(|note| {
            let stays = note.subtransaction != ended;
            if let Some(table) = table.as_ref().filter(|_| !stays) {
                table.mine.held.free(note.bucket);
            }
            stays
        });
    });
}
