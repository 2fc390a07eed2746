//! Where usage records wait in shared memory: slots of one size, and for each database
//! a queue of them.
//!
//! One lock guards all that is in `State`; it is held for as long as it takes to copy a
//! record. Nothing under it can fail, wait, or ask for memory. A slot in a queue is
//! not changed until the worker, having stored it, takes it out: the worker reads
//! slots without the lock.

use super::partitions::Wanted;
use super::settings;
use super::unknown::Unknown;
use crate::error::Result;
use crate::shmem::{Place, Region, lwlock};
use keysmith_core::event::{self, MAX_LEN};
use pgrx::pg_sys;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// How many databases of a server can have a queue. The records of others are written
/// in place.
pub const MOST_DATABASES: usize = 64;

/// One in so many places of a database's share may be taken by amendments, which anyone who
/// may call `log_request` can make up.
const AMENDMENTS: u32 = 4;

/// No slot.
const NONE: u32 = u32::MAX;

pub static REGION: Region =
    Region { name: c"keysmith_usage", locks: || 1, size, initialise, place: Place::unknown() };

#[repr(C)]
pub struct Ring {
    lock: *mut pg_sys::LWLock,
    /// When this memory came into being: a name for the time until the next such event.
    pub incarnation: i64,
    /// Whether the server had been shut down properly before.
    pub started_cleanly: bool,
    /// Whether the server was a standby then. It may have been promoted since.
    pub started_as_standby: bool,
    pub capacity: u32,
    /// How many slots one database may take, so that none takes all.
    pub share: u32,
    /// How many slots are taken. Changed under the lock.
    used: AtomicU32,
    /// When a worker could last not be had, since others took all processes.
    pub starved_at: AtomicI64,
    pub signals: [Signals; MOST_DATABASES],
    state: UnsafeCell<State>,
}

/// What is read and written without the lock.
#[repr(C)]
pub struct Signals {
    /// How many events backends hold back until the end of their transactions.
    pub held: AtomicU32,
    /// Whether there is a worker, as a number of `Presence`.
    pub worker: AtomicU32,
    /// Of a standby's records, the newest that the primary said is stored.
    pub acknowledged: AtomicU64,
    /// Whether this life has left a trace for the database: see `traces`.
    pub traced: AtomicU32,
}

#[repr(C)]
pub struct State {
    free: u32,
    /// Slots from here on have never been used.
    fresh: u32,
    /// The number of the newest record. One count serves all databases, so that a copy
    /// of a database never meets a number that it has.
    sequence: u64,
    pub databases: [Database; MOST_DATABASES],
}

#[repr(C)]
pub struct Database {
    /// 0 where the place is free.
    pub oid: u32,
    head: u32,
    tail: u32,
    pub count: u32,
    /// How many of these are amendments.
    amendments: u32,
    /// Numbers of the newest record taken in, and of the newest that was dealt with.
    pub sequence: u64,
    pub done: u64,
    pub counters: Counters,
    pub worker: WorkerPlace,
    pub unknown: Unknown,
}

/// Since the server started.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Counters {
    pub accepted: u64,
    pub stored: u64,
    pub dropped: u64,
    pub written_through: u64,
    pub set_aside: u64,
    pub discarded: u64,
    pub not_logged: u64,
    pub amendments: u64,
    pub unmatched: u64,
    pub failed_batches: u64,
    pub failed_starts: u64,
}

/// What is known of a database's worker.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WorkerPlace {
    pub pid: i32,
    /// When it was asked for, or came, or when asking may be tried again.
    pub since: i64,
    pub latch: *mut pg_sys::Latch,
    /// Somebody waits for all to be stored.
    pub asked: bool,
    pub wanted: Wanted,
    woken: bool,
    pub last_flush: i64,
    /// Records of standbys that were set aside with nothing stored since.
    pub aside_in_a_row: u32,
    pub last_error: [u8; MOST_ERROR],
}

pub const MOST_ERROR: usize = 200;

#[repr(C)]
struct Slot {
    next: u32,
    length: u16,
    sequence: u64,
    bytes: [u8; MAX_LEN],
}

// SAFETY: shared memory with a lock for `state` and atomics for the rest; what else
// there is never changes.
unsafe impl Sync for Ring {}

fn slots() -> u32 {
    u32::try_from(settings::buffer() / size_of::<Slot>()).unwrap_or(NONE - 1)
}

fn size() -> usize {
    size_of::<Ring>().next_multiple_of(64) + slots() as usize * size_of::<Slot>()
}

unsafe fn initialise(place: *mut u8) -> Result<()> {
    let ring = place.cast::<Ring>();
    // SAFETY: the memory is ours alone, of the size asked for; all zeros are a valid
    // value of everything in it.
    unsafe {
        std::ptr::write_bytes(place, 0, size());
        (*ring).lock = &raw mut (*pg_sys::GetNamedLWLockTranche(REGION.name.as_ptr())).lock;
        (*ring).incarnation = pg_sys::GetCurrentTimestamp();
        (*ring).started_cleanly = was_shut_down();
        (*ring).started_as_standby = is_standby();
        (*ring).capacity = slots();
        (*ring).share = slots() - slots() / 4;
        let state = (*ring).state.get();
        (*state).free = NONE;
        for database in &mut (*state).databases {
            (database.head, database.tail) = (NONE, NONE);
        }
        super::traces::begin(&*ring);
        super::leftovers::take_up(&*ring);
    }
    Ok(())
}

/// What the control file says of the server's last end.
///
/// # Safety
/// Only in the postmaster.
pub unsafe fn was_shut_down() -> bool {
    // SAFETY: reads the file; the result is ours.
    unsafe {
        let mut is_intact = false;
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_intact);
        let state = (*control).state;
        pg_sys::pfree(control.cast());
        is_intact
            && (state == pg_sys::DBState::DB_SHUTDOWNED
                || state == pg_sys::DBState::DB_SHUTDOWNED_IN_RECOVERY)
    }
}

/// Whether the server is told to start as a standby.
///
/// # Safety
/// Only in the postmaster, before it has started anything.
unsafe fn is_standby() -> bool {
    // SAFETY: set before any library is loaded.
    let data = unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned();
    Path::new(&data).join("standby.signal").exists()
}

/// The ring, where the library is preloaded.
#[inline]
pub fn ring() -> Option<&'static Ring> {
    // SAFETY: null, or the memory that the postmaster filled in, which stays.
    unsafe { REGION.place.memory.load(Relaxed).cast::<Ring>().as_ref() }
}

/// A record as it lies in its slot.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub sequence: u64,
    pub bytes: &'static [u8],
}

/// Records that come one after the other in a queue, by their slots.
struct Chain {
    first: u32,
    last: u32,
    count: u32,
    amendments: u32,
    /// The number of the first one.
    sequence: u64,
}

impl Ring {
    /// # Panics
    /// `body` must not, nor raise an error.
    #[inline]
    pub fn locked<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        // SAFETY: the lock was made with the memory; it keeps others from the state.
        unsafe {
            lwlock::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = body(&mut *self.state.get());
            lwlock::LWLockRelease(self.lock);
            result
        }
    }

    /// The slot of that number.
    #[inline]
    fn slot(&self, index: u32) -> *mut Slot {
        // SAFETY: the slots follow the ring, as many as its capacity; numbers of slots
        // are below that.
        unsafe {
            (&raw const *self)
                .cast::<c_char>()
                .cast_mut()
                .add(size_of::<Ring>().next_multiple_of(64))
                .cast::<Slot>()
                .add(index as usize)
        }
    }

    /// Takes a record in. False if there is no room, which is for the caller to count.
    #[inline]
    pub fn push(&self, database: usize, record: &[u8]) -> bool {
        let mut wake = null_mut();
        let is_in = self.locked(|state| {
            let is_in = self.append(state, database, record);
            if let Some(database) = state.databases.get_mut(database) {
                database.counters.accepted += u64::from(is_in);
                if database.count >= self.wakes_at() && !database.worker.woken {
                    database.worker.woken = true;
                    wake = database.worker.latch;
                }
            }
            is_in
        });
        if !wake.is_null() {
            // SAFETY: a latch of shared memory. Its process may be gone: then another
            // is woken for nothing, or none.
            unsafe { pg_sys::SetLatch(wake) };
        }
        is_in
    }

    /// Puts a record behind all others again.
    pub fn put_back(&self, database: usize, record: &[u8]) -> bool {
        self.locked(|state| self.append(state, database, record))
    }

    /// Many records are stored before the interval is over.
    pub fn wakes_at(&self) -> u32 {
        settings::batch_size().min(self.share / 4).max(1)
    }

    #[inline]
    fn append(&self, state: &mut State, database: usize, record: &[u8]) -> bool {
        let State { free, fresh, sequence, databases } = state;
        let Some(database) = databases.get_mut(database) else { return false };
        let is_amendment = event::is_amendment(record);
        if database.count >= self.share
            || is_amendment && database.amendments >= self.share / AMENDMENTS
            || record.len() > MAX_LEN
        {
            return false;
        }
        let index = if *free != NONE {
            let index = *free;
            // SAFETY: a slot that is in no queue, under the lock.
            *free = unsafe { (*self.slot(index)).next };
            index
        } else if *fresh < self.capacity {
            *fresh += 1;
            *fresh - 1
        } else {
            return false;
        };
        *sequence += 1;
        database.sequence = *sequence;
        // SAFETY: as above; the record is no longer than the slot's room.
        unsafe {
            let slot = self.slot(index);
            (*slot).next = NONE;
            (*slot).length = record.len() as u16;
            (*slot).sequence = database.sequence;
            let bytes = (&raw mut (*slot).bytes).cast::<u8>();
            std::ptr::copy_nonoverlapping(record.as_ptr(), bytes, record.len());
            if database.tail == NONE {
                database.head = index;
            } else {
                (*self.slot(database.tail)).next = index;
            }
        }
        database.tail = index;
        database.count += 1;
        database.amendments += u32::from(is_amendment);
        self.used.fetch_add(1, Relaxed);
        true
    }

    /// The first records of a queue, which stay in it. Only for the database's worker,
    /// who alone takes records out.
    pub fn peek(&self, database: usize, most: u32) -> Vec<Waiting> {
        let (mut index, count) = self.locked(|state| match state.databases.get_mut(database) {
            Some(database) => {
                database.worker.woken = false;
                (database.head, database.count)
            }
            None => (NONE, 0),
        });
        let mut records = Vec::with_capacity(count.min(most) as usize);
        for _ in 0..count.min(most) {
            // SAFETY: a slot of the queue; all of it but the last one's `next`, which
            // is not followed, stays as it is until it is taken out.
            unsafe {
                let slot = self.slot(index);
                let bytes = (&raw const (*slot).bytes).cast::<u8>();
                records.push(Waiting {
                    sequence: (*slot).sequence,
                    bytes: std::slice::from_raw_parts(bytes, usize::from((*slot).length)),
                });
                if records.len() < count.min(most) as usize {
                    index = (*slot).next;
                }
            }
        }
        records
    }

    /// Takes the first `n` records of a queue out, and counts what became of them. The
    /// lock is held no longer for many than for one: others decide meanwhile.
    pub fn take_out(&self, database: usize, n: u32, count: impl FnOnce(&mut Counters)) {
        let chain = self.first(database, n);
        self.locked(|state| {
            let State { free, databases, .. } = state;
            let Some(database) = databases.get_mut(database) else { return };
            if let Some(chain) = chain
                && self.is_still_first(&chain, database)
            {
                // SAFETY: slots of the queue, under the lock.
                unsafe {
                    let last = self.slot(chain.last);
                    database.head = (*last).next;
                    database.done = (*last).sequence;
                    (*last).next = *free;
                }
                *free = chain.first;
                self.used.fetch_sub(chain.count, Relaxed);
                database.count -= chain.count;
                database.amendments -= chain.amendments;
                if database.head == NONE {
                    database.tail = NONE;
                }
            }
            count(&mut database.counters);
        });
    }

    /// The first records of a queue, `n` of them or all. `None` if there are none.
    fn first(&self, database: usize, n: u32) -> Option<Chain> {
        let (first, count) = self.locked(|state| {
            let database = state.databases.get(database)?;
            (database.head != NONE).then_some((database.head, database.count.min(n)))
        })?;
        // SAFETY: a slot that has been in use.
        let sequence = unsafe { (*self.slot(first)).sequence };
        // SAFETY: as above; the first byte is there, whatever the length.
        let is_amendment = |slot| event::is_amendment(unsafe { &(&(*self.slot(slot)).bytes)[..1] });
        let mut last = first;
        let mut amendments = u32::from(is_amendment(first));
        for _ in 1..count {
            // SAFETY: a slot of the queue, which has a next one. If somebody else takes
            // them out meanwhile, which `is_still_first` will tell, this leads astray,
            // but not beyond the slots that there are.
            last = unsafe { (*self.slot(last)).next };
            if last >= self.capacity {
                return None;
            }
            amendments += u32::from(is_amendment(last));
        }
        (count > 0).then_some(Chain { first, last, count, amendments, sequence })
    }

    /// Called under the lock.
    fn is_still_first(&self, chain: &Chain, database: &Database) -> bool {
        // SAFETY: a slot that has been in use; no two records have the same number.
        let sequence = unsafe { (*self.slot(chain.first)).sequence };
        database.head == chain.first && database.count >= chain.count && sequence == chain.sequence
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

    /// Throws away all that waits for a database.
    pub fn discard(&self, database: usize) {
        let waiting = self.with(database, |database| database.count).unwrap_or_default();
        self.take_out(database, waiting, |counters| counters.discarded += u64::from(waiting));
        self.with(database, |database| {
            let all = database.unknown;
            database.unknown.subtract(&all);
        });
    }

    /// Keeps an error where `usage_status` shows it.
    pub fn remember(&self, database: usize, message: &str) {
        let mut kept = [0; MOST_ERROR];
        let end = (0..=message.len().min(MOST_ERROR)).rev().find(|n| message.is_char_boundary(*n));
        let message = message.as_bytes().get(..end.unwrap_or(0)).unwrap_or_default();
        for (place, byte) in kept.iter_mut().zip(message) {
            *place = *byte;
        }
        self.with(database, |database| {
            database.worker.last_error = kept;
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

    /// The place of a database, a new one if need be. `None` if all are taken.
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

    /// Gives up the place of a database that is no more, with all that waited there. All of
    /// it under one lock: another database may have the place right afterwards.
    pub fn forget(&self, oid: u32) {
        self.locked(|state| {
            let State { free, databases, .. } = state;
            let Some(index) = databases.iter().position(|d| d.oid == oid) else { return };
            let Some(database) = databases.get_mut(index) else { return };
            if database.head != NONE {
                // SAFETY: the last slot of the queue, under the lock.
                unsafe { (*self.slot(database.tail)).next = *free };
                *free = database.head;
                self.used.fetch_sub(database.count, Relaxed);
            }
            // SAFETY: zeros are a valid value of everything in it.
            *database = unsafe { std::mem::zeroed() };
            (database.head, database.tail) = (NONE, NONE);
            if let Some(signals) = self.signals.get(index) {
                signals.held.store(0, Relaxed);
                signals.worker.store(0, Relaxed);
                signals.acknowledged.store(0, Relaxed);
                signals.traced.store(0, Relaxed);
            }
        });
    }
}
