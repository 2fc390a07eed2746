//! The queue in shared memory: slots of one size, and for each database a chain of them.
//!
//! One lock guards all that is in `State` and the slots; it is held for as long as it takes to copy
//! a few records. Nothing under it can fail, wait, or ask for memory.

use crate::usage::node::{self, Identity};
use crate::usage::queue::decisions;
use crate::usage::queue::unknown::Unknown;
use crate::usage::queue::wanted_days::WantedDays;
use crate::usage::settings;
use keysmith_core::event::{MAX_LEN, Record};
use keysmith_core::queue::{Batch, Chain, Pool, Slot, Wanted};
use keysmith_core::samples::Samples;
use pg::latch::Latch;
use pg::locked::{Locked, LockedRegion};
use pg::shmem::shareable;
use pg::{clock, server};
use std::array;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// How many databases of a server can have a chain. Sessions of others write their records
/// through.
pub const MOST_DATABASES: usize = 64;

shareable! {
    pub struct Queue {
        /// When this memory was made: a name for the time until it is made again.
        pub incarnation: i64,
        /// The server's identity: see `node`.
        pub node: Identity,
        /// Whether the server was shut down properly before.
        pub started_cleanly: bool,
        /// Whether the server was a standby at its start. It may have been promoted since.
        pub started_as_standby: bool,
        pub capacity: u32,
        /// How many slots one database may take, so that none takes all.
        pub share: u32,
        /// How many slots are taken. It is read without the lock.
        used: AtomicU32,
        /// When there was last no process for a worker.
        pub starved_at: AtomicI64,
        pub signals: [Signals; MOST_DATABASES],
        state: Locked<State, Slot>,
    }

    /// What is read and written without the lock.
    #[derive(Default)]
    pub struct Signals {
        /// How many events backends hold back until the end of their transactions.
        pub pending: AtomicU32,
        /// Whether there is a worker: see `session::worker_slot`.
        pub worker: AtomicU32,
        /// On a standby, the newest record that the primary said is stored.
        pub acknowledged: AtomicU64,
        /// Whether this incarnation has its file for the database: see `restart::losses`.
        pub has_file: AtomicU32,
    }

    pub struct State {
        pub pool: Pool,
        pub databases: [Database; MOST_DATABASES],
    }

    pub struct Database {
        /// 0 where the place is free.
        pub oid: u32,
        pub records: Chain,
        /// Records of earlier incarnations, in files: see `restart::backlog`.
        pub backlog: u32,
        pub counters: Counters,
        pub worker: WorkerState,
        pub unknown: Unknown,
        /// Which requests without rows left one all the same.
        pub samples: Samples,
    }

    /// Since the server started.
    #[derive(Clone, Copy, Default)]
    pub struct Counters {
        pub accepted: u64,
        pub stored: u64,
        pub dropped: u64,
        /// When the last record was dropped.
        pub last_dropped_at: i64,
        pub written_through: u64,
        pub quarantined: u64,
        pub discarded: u64,
        pub not_logged: u64,
        pub amendments: u64,
        pub unmatched: u64,
        pub failed_batches: u64,
        pub failed_starts: u64,
    }

    /// A database's worker.
    #[derive(Clone, Copy)]
    pub struct WorkerState {
        pub pid: i32,
        /// When it was asked for or started, or when another may be asked for.
        pub since: i64,
        pub latch: Latch,
        /// A session waits until all is stored.
        pub asked: bool,
        pub wanted: WantedDays,
        woken: bool,
        pub last_flush: i64,
        /// Records of standbys that were quarantined with nothing stored since.
        pub quarantined_in_a_row: u32,
        pub last_error: [u8; MOST_ERROR],
        pub last_error_at: i64,
        /// When it warned of a chain of the audit that can't be extended; 0 if it did not.
        pub warned_at: i64,
    }
}

pub const MOST_ERROR: usize = 200;

impl Database {
    /// Whether nothing is left for a worker to store.
    pub fn is_empty(&self) -> bool {
        self.records.count == 0 && self.backlog == 0 && self.unknown.is_empty()
    }

    fn new() -> Database {
        Database {
            oid: 0,
            records: Chain::default(),
            backlog: 0,
            counters: Counters::default(),
            worker: WorkerState {
                pid: 0,
                since: 0,
                latch: Latch::NONE,
                asked: false,
                wanted: WantedDays::default(),
                woken: false,
                last_flush: 0,
                quarantined_in_a_row: 0,
                last_error: [0; MOST_ERROR],
                last_error_at: 0,
                warned_at: 0,
            },
            unknown: Unknown::new(),
            samples: Samples::new(),
        }
    }
}

fn slots() -> usize {
    (settings::buffer() / size_of::<Slot>()).min(u32::MAX as usize - 1)
}

pub static REGION: LockedRegion<Queue, State, Slot> =
    LockedRegion::new(c"keysmith_usage", state, slots, Slot::default, whole);

/// The queue, where the library is preloaded.
#[inline]
pub fn queue() -> Option<&'static Queue> {
    REGION.get()
}

fn state() -> State {
    State { pool: Pool::default(), databases: array::from_fn(|_| Database::new()) }
}

fn whole(state: Locked<State, Slot>) -> Queue {
    let capacity = slots() as u32;
    Queue {
        incarnation: clock::now(),
        node: node::identity(),
        started_cleanly: server::was_shut_down(),
        started_as_standby: server::data_directory().join("standby.signal").exists(),
        capacity,
        share: capacity - capacity / 4,
        used: AtomicU32::new(0),
        starved_at: AtomicI64::new(0),
        signals: array::from_fn(|_| Signals::default()),
        state,
    }
}

impl Queue {
    /// `body` must not fail: see `Locked`.
    #[inline]
    pub fn locked<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        self.state.with(|state, _| body(state))
    }

    /// The same for what takes slots or frees some.
    #[inline]
    fn change<T>(&self, body: impl FnOnce(&mut State, &mut [Slot]) -> T) -> T {
        self.state.with(|state, slots| {
            let result = body(state, slots);
            self.used.store(state.pool.used, Relaxed);
            result
        })
    }

    /// Accepts a record. Returns false, and counts nothing, if there is no room.
    #[inline]
    pub fn push(&self, database: usize, record: &[u8]) -> bool {
        let mut wake = Latch::NONE;
        let is_in = self.change(|State { pool, databases }, slots| {
            let Some(database) = databases.get_mut(database) else { return false };
            let is_in = pool.append(slots, &mut database.records, record, self.share);
            database.counters.accepted += u64::from(is_in);
            if database.records.count >= self.wakes_at() && !database.worker.woken {
                database.worker.woken = true;
                wake = database.worker.latch;
            }
            is_in
        });
        wake.set();
        is_in
    }

    /// Puts a record at the end of the queue again.
    pub fn put_back(&self, database: usize, record: &[u8]) -> bool {
        self.change(|State { pool, databases }, slots| {
            databases.get_mut(database).is_some_and(|database| {
                pool.append(slots, &mut database.records, record, self.share)
            })
        })
    }

    /// How many requests a sudden end can cost at most: a database's share of the slots, and the
    /// pending one of each backend.
    pub fn most_waiting(&self) -> i64 {
        i64::from(self.share) + i64::from(server::max_backends())
    }

    /// So many records are stored before the flush interval ends.
    pub fn wakes_at(&self) -> u32 {
        settings::batch_size().min(self.share / 4).max(1)
    }

    /// The first records of a database, which stay in the queue. Records that come while this reads
    /// are not among them.
    pub fn peek(&self, database: usize, most: u32) -> Batch {
        self.read(database, Wanted { after: 0, up_to: u64::MAX, most })
    }

    /// The same for records after a number.
    pub fn peek_after(&self, database: usize, after: u64, most: u32) -> Batch {
        self.read(database, Wanted { after, up_to: u64::MAX, most })
    }

    /// The same for records up to a number.
    pub fn peek_up_to(&self, database: usize, up_to: u64) -> Batch {
        self.read(database, Wanted { after: 0, up_to, most: u32::MAX })
    }

    fn read(&self, database: usize, wanted: Wanted) -> Batch {
        let begun = self.with(database, |database| {
            database.worker.woken = false;
            Batch::new(&database.records, wanted)
        });
        let mut batch = begun.unwrap_or_default();
        loop {
            batch.make_room();
            let has_more = self.state.with(|state, slots| {
                let database = state.databases.get(database);
                database.is_some_and(|database| batch.read(slots, &database.records))
            });
            if !has_more {
                return batch;
            }
        }
    }

    /// Takes records out if they are still the first of their database, and counts them.
    pub fn take_out(&self, database: usize, batch: Batch, count: impl FnOnce(&mut Counters)) {
        let run = batch.run();
        self.change(|State { pool, databases }, slots| {
            let Some(database) = databases.get_mut(database) else { return };
            if let Some(run) = &run {
                pool.take_out(slots, &mut database.records, run);
            }
            count(&mut database.counters);
        });
    }

    /// When the first record that waits was made, and `body` under the same lock.
    pub fn oldest_and<T>(
        &self,
        database: usize,
        body: impl FnOnce(&Database) -> T,
    ) -> Option<(Option<i64>, T)> {
        let mut room = [0; MAX_LEN];
        let (length, result) = self.state.with(|state, slots| {
            let database = state.databases.get(database)?;
            let length = database.records.copy_head(slots, &mut room);
            Some((length, body(database)))
        })?;
        let record = room.get(..length).and_then(Record::decode);
        Some((record.map(|record| record.at()), result))
    }

    /// How many records wait, of all databases.
    pub fn waiting(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Whether no database has room for another record.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.waiting() >= self.capacity
    }

    /// Throws away all records of a database that wait here.
    pub fn discard(&self, database: usize) {
        self.change(|State { pool, databases }, slots| {
            let Some(database) = databases.get_mut(database) else { return };
            let count = pool.empty(slots, &mut database.records);
            database.counters.discarded += u64::from(count);
            let all = database.unknown;
            database.unknown.subtract(&all);
        });
    }

    /// Keeps an error for `usage_status`.
    pub fn remember(&self, database: usize, message: &str) {
        let mut kept = [0; MOST_ERROR];
        let end = (0..=message.len().min(MOST_ERROR)).rev().find(|n| message.is_char_boundary(*n));
        let message = message.as_bytes().get(..end.unwrap_or(0)).unwrap_or_default();
        for (place, byte) in kept.iter_mut().zip(message) {
            *place = *byte;
        }
        let now = clock::now();
        self.with(database, |database| {
            database.worker.last_error = kept;
            database.worker.last_error_at = now;
            database.counters.failed_batches += 1;
        });
    }

    /// Counts something for a database.
    pub fn count(&self, database: usize, count: impl FnOnce(&mut Counters)) {
        self.with(database, |database| count(&mut database.counters));
    }

    pub fn with<T>(&self, database: usize, body: impl FnOnce(&mut Database) -> T) -> Option<T> {
        self.locked(|state| state.databases.get_mut(database).map(body))
    }

    /// The place of a database, which may be a new one. `None` if all are taken.
    pub fn place_of(&self, oid: u32) -> Option<usize> {
        self.locked(|state| {
            let place = |oid| state.databases.iter().position(|database| database.oid == oid);
            let index = place(oid).or_else(|| place(0))?;
            state.databases.get_mut(index)?.oid = oid;
            Some(index)
        })
    }

    /// The databases that have a place.
    pub fn databases(&self) -> Vec<u32> {
        let mut oids = [0; MOST_DATABASES];
        self.locked(|state| {
            for (oid, database) in oids.iter_mut().zip(&state.databases) {
                *oid = database.oid;
            }
        });
        oids.into_iter().filter(|oid| *oid != 0).collect()
    }

    /// Frees the place of a database that was dropped, with all that waited there. It does so under
    /// one lock, as another database may get the place right afterwards.
    pub fn forget(&self, oid: u32) {
        self.change(|State { pool, databases }, slots| {
            let Some(index) = databases.iter().position(|d| d.oid == oid) else { return };
            let Some(database) = databases.get_mut(index) else { return };
            pool.empty(slots, &mut database.records);
            *database = Database::new();
            decisions::clear(index);
            if let Some(signals) = self.signals.get(index) {
                signals.pending.store(0, Relaxed);
                signals.worker.store(0, Relaxed);
                signals.acknowledged.store(0, Relaxed);
                signals.has_file.store(0, Relaxed);
            }
        });
    }
}
