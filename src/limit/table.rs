//! The table in shared memory: parts with a lock each.

use super::Claim;
use crate::settings;
use keysmith_core::buckets::{PLACES, Part};
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::shmem::{Place, Region, lwlock};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static PLACE: Place = Place::unknown();

pub static REGION: Region =
    Region { name: c"keysmith limits", size, locks: parts, initialise, place: &PLACE };

/// What precedes the parts.
#[repr(C, align(64))]
struct Header {
    /// Of the hashes that buckets are found by. It is drawn anew at each start, so that
    /// nobody can make keys whose buckets get in each other's way.
    key: [u64; 2],
    started_at: pg_sys::TimestampTz,
    parts: usize,
    /// Calls that were refused for want of room.
    refusals: AtomicU64,
}

fn buckets() -> usize {
    usize::try_from(settings::max_buckets()).unwrap_or(0)
}

fn parts() -> usize {
    buckets().div_ceil(PLACES)
}

fn size() -> usize {
    size_of::<Header>() + parts() * size_of::<Part>()
}

/// # Safety
/// There must be `size()` bytes of fresh memory, aligned as shared memory is.
unsafe fn initialise(memory: *mut u8) -> Result<()> {
    let no_entropy =
        |_| Error::new(Code::Installation, "the operating system has no entropy to give");
    let key = [getrandom::u64().map_err(no_entropy)?, getrandom::u64().map_err(no_entropy)?];
    let parts = parts();
    // SAFETY: as the caller promises; both types are aligned to 64 bytes or less, as
    // the memory is, and a part's size is a multiple of its alignment.
    unsafe {
        memory.cast::<Header>().write(Header {
            key,
            started_at: pg_sys::GetCurrentTimestamp(),
            parts,
            refusals: AtomicU64::new(0),
        });
        let first = memory.add(size_of::<Header>()).cast::<Part>();
        for index in 0..parts {
            // As even as can be, so that shares are.
            let capacity = (buckets() + index) / parts;
            first.add(index).write(Part::new(capacity));
        }
    }
    Ok(())
}

/// Whether limits can be kept: the library is preloaded.
pub fn is_there() -> bool {
    Table::shared().is_some()
}

/// Since a moment in the past: see `clock`.
pub fn now() -> u64 {
    clock::monotonic().unsigned_abs()
}

#[derive(Clone, Copy)]
pub struct Table {
    header: &'static Header,
    first: *mut Part,
    locks: *mut pg_sys::LWLockPadded,
}

impl Table {
    pub fn shared() -> Option<Table> {
        let memory = PLACE.memory.load(Relaxed);
        if memory.is_null() {
            return None;
        }
        // SAFETY: the memory was initialised before its place was noted, and lasts as
        // long as the process; the header is written by atomics alone from then on.
        unsafe {
            Some(Table {
                header: &*memory.cast::<Header>(),
                first: memory.add(size_of::<Header>()).cast(),
                locks: PLACE.locks.load(Relaxed),
            })
        }
    }

    pub fn key(&self) -> [u64; 2] {
        self.header.key
    }

    pub fn started_at(&self) -> pg_sys::TimestampTz {
        self.header.started_at
    }

    pub fn count_refusal(&self) {
        self.header.refusals.fetch_add(1, Relaxed);
    }

    pub fn refusals(&self) -> u64 {
        self.header.refusals.load(Relaxed)
    }

    /// How many buckets are not full, part by part.
    pub fn in_use(&self) -> usize {
        let now = now();
        let in_part = |index| {
            let _lock = Lock::take(self, index, pg_sys::LWLockMode::LW_SHARED);
            // SAFETY: there is such a part, and nobody changes it while we hold the lock.
            unsafe { (*self.first.add(index)).in_use(now) }
        };
        (0..self.header.parts).map(in_part).sum()
    }

    /// Parts are chosen by a name's high bits, and chains within them by the low ones.
    fn part_of(&self, claim: &Claim) -> usize {
        let high = (claim.bucket >> 64) as u64;
        usize::try_from(high % self.header.parts.max(1) as u64).unwrap_or(0)
    }
}

/// The lock of a part.
struct Lock(*mut pg_sys::LWLock);

impl Lock {
    fn take(table: &Table, index: usize, mode: pg_sys::LWLockMode::Type) -> Lock {
        // SAFETY: there are as many locks as parts.
        unsafe {
            let lock = &raw mut (*table.locks.add(index)).lock;
            lwlock::LWLockAcquire(lock, mode);
            Lock(lock)
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: taken in `take`. After an error the abort releases it.
            unsafe { lwlock::LWLockRelease(self.0) };
        }
    }
}

/// The parts of some claims, for one session alone.
pub struct Locked {
    table: Table,
    _first: Option<Lock>,
    _others: Vec<Lock>,
}

impl Locked {
    /// Locks are taken in the order of parts, so that sessions don't wait in a circle.
    /// A decision has far fewer limits than PostgreSQL lets a session have locks.
    pub fn all(table: Table, claims: &[Claim]) -> Locked {
        let take = |index| Lock::take(&table, index, pg_sys::LWLockMode::LW_EXCLUSIVE);
        // Mostly there is one: then no memory is asked for.
        if let [claim] = claims {
            return Locked { table, _first: Some(take(table.part_of(claim))), _others: Vec::new() };
        }
        let mut parts: Vec<usize> = claims.iter().map(|claim| table.part_of(claim)).collect();
        parts.sort_unstable();
        parts.dedup();
        let mut locks = Vec::with_capacity(parts.len());
        for index in parts {
            locks.push(take(index));
        }
        Locked { table, _first: None, _others: locks }
    }

    /// The part of one of the claims.
    pub fn part(&mut self, claim: &Claim) -> &mut Part {
        // SAFETY: there is such a part. We hold its lock, and `self` is borrowed for as
        // long as the part is.
        unsafe { &mut *self.table.first.add(self.table.part_of(claim)) }
    }
}
