//! The table in shared memory: parts with a lock each.

use super::Claim;
use crate::settings;
use keysmith_core::buckets::{PLACES, Part};
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

    /// Parts are chosen by a name's high bits, and chains within them by the low ones.
    fn part_of(&self, claim: &Claim) -> usize {
        let high = (claim.bucket >> 64) as u64;
        usize::try_from(high % self.parts.len().max(1) as u64).unwrap_or(0)
    }
}

/// The parts of some claims, for one session alone, by their numbers.
pub struct LockedParts {
    table: BucketTable,
    /// Mostly there is one: then no memory is asked for.
    first: Option<(usize, Writing<'static, Part>)>,
    others: Vec<(usize, Writing<'static, Part>)>,
}

impl LockedParts {
    /// Locks are taken in the order of parts, so that sessions don't wait in a circle.
    /// A decision has far fewer limits than PostgreSQL lets a session have locks.
    pub fn all(table: BucketTable, claims: &[Claim]) -> LockedParts {
        let take = |n: usize| table.parts.get(n).map(|part| (n, part.write()));
        if let [claim] = claims {
            return LockedParts { table, first: take(table.part_of(claim)), others: Vec::new() };
        }
        let mut parts: Vec<usize> = claims.iter().map(|claim| table.part_of(claim)).collect();
        parts.sort_unstable();
        parts.dedup();
        let mut others = Vec::with_capacity(parts.len());
        for n in parts {
            others.extend(take(n));
        }
        LockedParts { table, first: None, others }
    }

    /// The part of one of the claims.
    pub fn part(&mut self, claim: &Claim) -> &mut Part {
        let n = self.table.part_of(claim);
        let mut locked = self.first.iter_mut().chain(&mut self.others);
        match locked.find(|(locked, _)| *locked == n) {
            Some((_, part)) => part,
            None => unreachable!("the part of a claim is locked with all others"),
        }
    }
}
