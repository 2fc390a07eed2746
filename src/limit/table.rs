//! The table in shared memory: parts, each with a lock.

use crate::settings;
use keysmith_core::buckets::{PLACES, Part};
use keysmith_core::claims::{Claim, LockedParts};
use pg::clock;
use pg::error::{Error, Result};
use pg::shmem::{Guarded, Region, Writing, shareable};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

type Buckets = Region<Header, Guarded<Part>>;

pub static REGION: Buckets = Region::new(c"keysmith limits", header)
    .with_elements(
        || parts(settings::max_buckets()),
        |n, locks| locks.guard(n, part(settings::max_buckets(), n)),
    )
    .with_locks();

/// The buckets of failed attempts. Whatever fails, it takes no room from limits.
pub static FAILURES: Buckets = Region::new(c"keysmith failures", header)
    .with_elements(
        || parts(settings::max_failing_addresses()),
        |n, locks| locks.guard(n, part(settings::max_failing_addresses(), n)),
    )
    .with_locks();

shareable! {
    /// The head of the region, before the parts.
    pub struct Header {
        /// The key of the hashes that buckets are found by. It is random at each start, so that
        /// clients can't choose keys whose buckets collide.
        key: [u64; 2],
        started_at: i64,
        /// Calls that were refused, or not counted, because there was no room for a bucket.
        refusals: AtomicU64,
        last_refusal_at: AtomicI64,
    }
}

fn parts(buckets: i32) -> usize {
    usize::try_from(buckets).unwrap_or(0).div_ceil(PLACES)
}

fn header() -> Result<Header> {
    let random = || getrandom::u64().map_err(Error::no_entropy);
    let key = [random()?, random()?];
    Ok(Header {
        key,
        started_at: clock::now(),
        refusals: AtomicU64::new(0),
        last_refusal_at: AtomicI64::new(0),
    })
}

/// Distributes the buckets evenly over the parts, so that owners get even shares.
fn part(buckets: i32, n: usize) -> Part {
    let places = usize::try_from(buckets).unwrap_or(0);
    Part::new((places + n) / parts(buckets).max(1))
}

/// Whether rate limits can be kept, which needs the library to be preloaded.
pub fn is_there() -> bool {
    BucketTable::shared().is_some()
}

/// Microseconds since a moment in the past: see `clock`.
pub fn now() -> u64 {
    clock::monotonic().unsigned_abs()
}

/// The table of buckets.
#[derive(Clone, Copy)]
pub struct BucketTable {
    header: &'static Header,
    parts: &'static [Guarded<Part>],
}

impl BucketTable {
    /// The table of limits; `None` if the library is not preloaded.
    pub fn shared() -> Option<BucketTable> {
        BucketTable::of(&REGION)
    }

    /// The table of failed attempts, likewise.
    pub fn of_failures() -> Option<BucketTable> {
        BucketTable::of(&FAILURES)
    }

    fn of(region: &Buckets) -> Option<BucketTable> {
        region.whole().map(|(header, parts)| BucketTable { header, parts })
    }

    pub fn key(&self) -> [u64; 2] {
        self.header.key
    }

    pub fn started_at(&self) -> i64 {
        self.header.started_at
    }

    pub fn count_refusal(&self) {
        self.header.refusals.fetch_add(1, Relaxed);
        self.header.last_refusal_at.store(clock::now(), Relaxed);
    }

    pub fn last_refusal_at(&self) -> i64 {
        self.header.last_refusal_at.load(Relaxed)
    }

    pub fn refusals(&self) -> u64 {
        self.header.refusals.load(Relaxed)
    }

    /// The number of buckets that are not full, counted part by part.
    pub fn in_use(&self) -> usize {
        let now = now();
        self.parts.iter().map(|part| part.read().in_use(now)).sum()
    }

    /// Locks the parts that hold the buckets of these claims.
    #[inline]
    pub fn lock<'c, 'a>(
        &self,
        claims: &'c mut [Claim<'a>],
    ) -> LockedParts<'c, 'a, Writing<'static, Part>> {
        let parts = self.parts;
        LockedParts::all(claims, parts.len(), |n| parts.get(n).map(Guarded::write))
    }
}
