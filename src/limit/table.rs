//! The table in shared memory: parts with a lock each.

use crate::settings;
use keysmith_core::buckets::{PLACES, Part};
use keysmith_core::claims::{Claim, LockedParts};
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::shmem::{Guarded, Region, Writing, shareable};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub static REGION: Region<Header, Guarded<Part>> = Region::new(c"keysmith limits", header)
    .with_elements(parts, |n, locks| locks.guard(n, part(n)))
    .with_locks();

shareable! {
    /// What precedes the parts.
    pub struct Header {
        /// Of the hashes that buckets are found by. It is drawn anew at each start, so that
        /// nobody can make keys whose buckets get in each other's way.
        key: [u64; 2],
        started_at: i64,
        /// Calls that were refused for want of room.
        refusals: AtomicU64,
    }
}

fn buckets() -> usize {
    usize::try_from(settings::max_buckets()).unwrap_or(0)
}

fn parts() -> usize {
    buckets().div_ceil(PLACES)
}

fn header() -> Result<Header> {
    let no_entropy =
        |_| Error::new(Code::Installation, "the operating system has no entropy to give");
    let key = [getrandom::u64().map_err(no_entropy)?, getrandom::u64().map_err(no_entropy)?];
    Ok(Header { key, started_at: clock::now(), refusals: AtomicU64::new(0) })
}

/// As even as can be, so that shares are.
fn part(n: usize) -> Part {
    Part::new((buckets() + n) / parts().max(1))
}

/// Whether limits can be kept: the library is preloaded.
pub fn is_there() -> bool {
    BucketTable::shared().is_some()
}

/// Since a moment in the past: see `clock`.
pub fn now() -> u64 {
    clock::monotonic().unsigned_abs()
}

#[derive(Clone, Copy)]
pub struct BucketTable {
    header: &'static Header,
    parts: &'static [Guarded<Part>],
}

impl BucketTable {
    pub fn shared() -> Option<BucketTable> {
        REGION.whole().map(|(header, parts)| BucketTable { header, parts })
    }

    pub fn key(&self) -> [u64; 2] {
        self.header.key
    }

    pub fn started_at(&self) -> i64 {
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
        self.parts.iter().map(|part| part.read().in_use(now)).sum()
    }

    /// The parts of some claims, for one session alone.
    #[inline]
    pub fn lock<'c, 'a>(
        &self,
        claims: &'c [Claim<'a>],
    ) -> LockedParts<'c, 'a, Writing<'static, Part>> {
        let parts = self.parts;
        LockedParts::all(claims, parts.len(), |n| parts.get(n).map(Guarded::write))
    }
}
