//! Requests with weights and what they took from limits, until `settle` says what they used. It is in
//! shared memory, and ends with the server.

use super::Claim;
use super::table::{BucketTable, now};
use crate::settings;
use keysmith_core::policy::weights::Asked;
use keysmith_core::unsettled::{Decided, MOST_LIMITS, Name, PLACES, Request, Unsettled};
use pg::error::Result;
use pg::server;
use pg::shmem::{Guarded, Region, shareable};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub static REGION: Region<Lost, Guarded<Unsettled>> = Region::new(c"keysmith unsettled", none_lost)
    .with_elements(parts, |n, locks| locks.guard(n, part(n)))
    .with_locks();

shareable! {
    /// The head of the region, before the parts.
    pub struct Lost {
        /// Places that were taken by others, although their requests could still be settled.
        count: AtomicU64,
    }
}

fn none_lost() -> Result<Lost> {
    Ok(Lost { count: AtomicU64::new(0) })
}

fn places() -> usize {
    usize::try_from(settings::max_unsettled()).unwrap_or(0)
}

fn parts() -> usize {
    places().div_ceil(PLACES)
}

fn part(n: usize) -> Unsettled {
    Unsettled::new((places() + n) / parts().max(1))
}

pub fn lost() -> Option<u64> {
    REGION.get().map(|lost| lost.count.load(Relaxed))
}

fn request(id: &[u8; 16]) -> Request {
    Request { id: u128::from_be_bytes(*id), database: server::my_database().to_u32() }
}

/// The part of a request. The last bits of its id are random.
fn part_of(request: Request) -> Option<(&'static Lost, &'static Guarded<Unsettled>)> {
    let (lost, parts) = REGION.whole()?;
    let n = request.id as u64 % (parts.len().max(1) as u64);
    Some((lost, parts.get(usize::try_from(n).ok()?)?))
}

/// Remembers a request, and what it took. `is_recorded` says whether usage has a record of it.
#[cold]
pub fn remember<'c, 'a: 'c>(
    request_id: &[u8; 16],
    keyspace: &[u8],
    tenant_id: &[u8; 16],
    taken: impl Iterator<Item = &'c Claim<'a>>,
    is_recorded: bool,
) {
    let request = request(request_id);
    let Some((lost, part)) = part_of(request) else { return };
    let keyspace = Name::of(keyspace);
    let tenant = u128::from_be_bytes(*tenant_id) as u64;
    let decided = Decided { request, keyspace, tenant, is_recorded };
    let forgotten = part.write().remember(decided, taken, now());
    if forgotten > 0 {
        lost.count.fetch_add(forgotten, Relaxed);
    }
}

/// Charges what a request used beyond what it took, or gives back what it did not use, in each unit that
/// is named. `keyspaces` are those that the caller may decide about; `None` for all. Returns `None` if nothing
/// is known of the request.
pub fn settle(
    request_id: &[u8; 16],
    keyspaces: Option<&[Box<[u8]>]>,
    used: &Asked,
) -> Option<Decided> {
    let request = request(request_id);
    let (table, (_, part)) = (BucketTable::shared()?, part_of(request)?);
    let is_theirs = |keyspace: &[u8]| {
        keyspaces.is_none_or(|keyspaces| keyspaces.iter().any(|theirs| **theirs == *keyspace))
    };
    // No memory is asked for while sessions wait for the lock.
    let mut known = Vec::with_capacity(MOST_LIMITS);
    let decided = part.write().forget(request, now(), is_theirs, |taken| known.push(taken))?;
    for taken in &known {
        let mut claim = taken.claim();
        if let Some(used) = used.given(claim.unit) {
            let difference = i64::from(used) - i64::from(claim.weight);
            table.lock(slice::from_mut(&mut claim)).settle(now(), difference);
        }
    }
    Some(decided)
}
