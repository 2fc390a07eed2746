//! Slots: which transactions in progress count in a limit of concurrent requests.
//!
//! Each process has a list of its own in shared memory: the transaction that it was written by, and
//! the buckets in which that transaction has a slot. Nobody frees a slot when a transaction ends:
//! whoever counts sees that the process runs it no longer. So a slot can't outlive its transaction,
//! and a transaction takes no room from others.
//!
//! Only the process writes to its list. The counts are exact if whoever counts the slots of a bucket
//! and then takes one has the bucket's lock meanwhile: an entry is written under that lock, and
//! keeps its place.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// The most slots of a transaction.
pub const MOST: usize = 64;
/// The greatest number of transactions that a limit may allow.
pub const MAX_CONCURRENT: u32 = 1000;

/// A transaction in progress on the server; see `IDLE`.
pub type Holder = u64;
/// The holder of a process without a transaction.
pub const IDLE: Holder = 0;
/// An entry that is not used.
const NONE: u64 = 0;

/// The slots of a process.
pub struct Held {
    holder: AtomicU64,
    /// Entries from here on are not used.
    end: AtomicU32,
    buckets: [AtomicU64; MOST],
}

/// The bucket with some hash.
pub fn bucket(hash: u128) -> u64 {
    // A hash is practically never NONE. If it is, the next number is used.
    (hash as u64).max(NONE + 1)
}

impl Held {
    pub const fn new() -> Held {
        Held {
            holder: AtomicU64::new(IDLE),
            end: AtomicU32::new(0),
            buckets: [const { AtomicU64::new(NONE) }; MOST],
        }
    }

    /// Makes it the list of a transaction, which is empty if it was that of another one.
    pub fn begin(&self, holder: Holder) {
        if self.holder.load(Relaxed) != holder {
            // The slots are those of a transaction that has ended. They must not become this one's.
            self.used().iter().for_each(|entry| entry.store(NONE, Relaxed));
            self.end.store(0, Relaxed);
            self.holder.store(holder, Release);
        }
    }

    /// Whether the transaction that the process runs has a slot.
    pub fn has(&self, bucket: u64, running: Holder) -> bool {
        running != IDLE
            && self.holder.load(Acquire) == running
            && self.used().iter().any(|entry| entry.load(Relaxed) == bucket)
    }

    /// Writes a slot down. False if there is no room.
    pub fn put(&self, bucket: u64) -> bool {
        let free = self.buckets.iter().position(|entry| entry.load(Relaxed) == NONE);
        let Some(free) = free else { return false };
        if let Some(entry) = self.buckets.get(free) {
            entry.store(bucket, Relaxed);
        }
        let end = u32::try_from(free + 1).unwrap_or(0);
        self.end.fetch_max(end, Release);
        true
    }

    /// Frees a slot.
    pub fn free(&self, bucket: u64) {
        for entry in self.used().iter().filter(|entry| entry.load(Relaxed) == bucket) {
            entry.store(NONE, Release);
        }
    }

    fn used(&self) -> &[AtomicU64] {
        let end = usize::try_from(self.end.load(Acquire)).unwrap_or(MOST);
        self.buckets.get(..end).unwrap_or(&self.buckets)
    }
}

impl Default for Held {
    fn default() -> Held {
        Held::new()
    }
}

/// How many transactions have a slot of a bucket, of processes and what each of them runs.
pub fn taken<'a>(bucket: u64, processes: impl Iterator<Item = (&'a Held, Holder)>) -> u32 {
    processes.map(|(held, running)| u32::from(held.has(bucket, running))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};
    use std::sync::Mutex;

    const PROCESSES: usize = 4;

    #[derive(Clone, Debug)]
    enum Act {
        /// The transaction ends, and so do its slots. Most processes begin another one.
        End {
            begins: bool,
        },
        Take(u64),
        Free(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
        let act = prop_oneof![
            any::<bool>().prop_map(|begins| Act::End { begins }),
            (1..6u64).prop_map(Act::Take),
            (1..6u64).prop_map(Act::Take),
            (1..6u64).prop_map(Act::Free),
        ];
        proptest::collection::vec((0..PROCESSES, act), 0..200)
    }

    proptest! {
        #[test]
        fn only_transactions_in_progress_have_slots(acts in acts()) {
            let lists: [Held; PROCESSES] = Default::default();
            let mut running = [IDLE; PROCESSES];
            let mut model: HashMap<usize, HashSet<u64>> = HashMap::new();
            let mut last = IDLE;
            for (n, act) in acts {
                match act {
                    Act::End { begins } => {
                        last += 1;
                        running[n] = if begins { last } else { IDLE };
                        model.remove(&n);
                    }
                    Act::Take(bucket) if running[n] != IDLE => {
                        lists[n].begin(running[n]);
                        if !lists[n].has(bucket, running[n]) {
                            prop_assert!(lists[n].put(bucket));
                        }
                        model.entry(n).or_default().insert(bucket);
                    }
                    Act::Free(bucket) if running[n] != IDLE => {
                        lists[n].begin(running[n]);
                        lists[n].free(bucket);
                        model.entry(n).or_default().remove(&bucket);
                    }
                    Act::Take(_) | Act::Free(_) => {}
                }
                for bucket in 1..6 {
                    let found = taken(bucket, lists.iter().zip(running));
                    let expected = model.values().filter(|held| held.contains(&bucket)).count();
                    prop_assert_eq!(found as usize, expected);
                }
            }
        }
    }

    #[test]
    fn there_is_room_for_so_many() {
        let list = Held::new();
        list.begin(1);
        assert!((1..=MOST as u64).all(|bucket| list.put(bucket)));
        assert!(!list.put(1000));
        list.free(7);
        assert!(list.put(1000) && list.has(1000, 1) && !list.has(7, 1));
        list.begin(2);
        assert!(!list.has(1000, 2) && list.put(7));
    }

    #[test]
    fn no_more_than_allowed_at_any_time() {
        const ALLOWED: u32 = 2;
        let lists: [Held; PROCESSES] = Default::default();
        let running: [AtomicU64; PROCESSES] = Default::default();
        let (lock, inside) = (Mutex::new(()), AtomicU32::new(0));
        let passed = std::thread::scope(|scope| {
            let all = [0, 1, 2, 3].map(|n| {
                let (lists, running, lock, inside) = (&lists, &running, &lock, &inside);
                scope.spawn(move || {
                    let mut passed = 0;
                    for round in 1..2000 {
                        running[n].store(round, SeqCst);
                        let locked = lock.lock().unwrap();
                        lists[n].begin(round);
                        let now = running.iter().map(|running| running.load(SeqCst));
                        let is_allowed = taken(9, lists.iter().zip(now)) < ALLOWED;
                        if is_allowed {
                            assert!(lists[n].put(9));
                        }
                        drop(locked);
                        if is_allowed {
                            passed += 1;
                            assert!(inside.fetch_add(1, SeqCst) < ALLOWED);
                            inside.fetch_sub(1, SeqCst);
                        }
                        running[n].store(IDLE, SeqCst);
                    }
                    passed
                })
            });
            all.map(|thread| thread.join().unwrap()).iter().sum::<u32>()
        });
        assert!(passed > 0);
    }
}
