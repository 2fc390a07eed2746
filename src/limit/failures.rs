//! Failed attempts of an address: how many are left, and how one is counted.

use super::table::{BucketTable, now};
use keysmith_core::claims::{Admission, Claim};
use keysmith_core::policy::failures::{bucket, stored};
use keysmith_core::policy::limits::site;
use keysmith_core::policy::weights::CALLS;
use keysmith_core::siphash::SipHasher;
use pg::server;
use std::net::IpAddr;

/// The answer about an attempt.
#[derive(Clone, Copy)]
pub enum Attempt {
    /// It is one of those that the limit allows. So many are left.
    Allowed { left: u32 },
    /// There were too many. After so many microseconds one is allowed again.
    TooMany { retry_after: i64 },
    /// There is no room to count it, or no table, or the stored limit can't be read.
    Uncounted,
}

/// Counts a failed attempt.
pub fn count(keyspace: &[u8], address: IpAddr, limit: &str) -> Attempt {
    let Some(table) = BucketTable::of_failures() else { return Attempt::Uncounted };
    let outcome = match claim(table, keyspace, address, limit) {
        Some(claim) => table.lock(&mut [claim]).take(now()),
        None => Admission::Unavailable,
    };
    if matches!(outcome, Admission::Unavailable) {
        table.count_refusal();
    }
    told(outcome)
}

/// Answers as `count` would, and counts nothing.
pub fn peek(keyspace: &[u8], address: IpAddr, limit: &str) -> Attempt {
    let Some(table) = BucketTable::of_failures() else { return Attempt::Uncounted };
    match claim(table, keyspace, address, limit) {
        Some(claim) => told(table.lock(&mut [claim]).look(now())),
        None => Attempt::Uncounted,
    }
}

/// The claim on an address's bucket; `None` if the stored limit can't be read.
fn claim(
    table: BucketTable,
    keyspace: &[u8],
    address: IpAddr,
    limit: &str,
) -> Option<Claim<'static>> {
    let rate = stored(limit.as_bytes())?;
    let hasher = SipHasher::new(table.key());
    let owner = site(address, hasher.clone());
    let mut of_keyspace = hasher;
    of_keyspace.fixed(&server::my_database().to_u32().to_ne_bytes()).sized(keyspace);
    let bucket = bucket(address, of_keyspace);
    Some(Claim { name: b"", unit: CALLS, rate, weight: 1, bucket, owner, mark: None })
}

fn told(outcome: Admission) -> Attempt {
    match outcome {
        Admission::Passed(limit) => Attempt::Allowed { left: limit.remaining },
        Admission::Refused { retry_after, .. } => {
            let wait = retry_after.unwrap_or_default();
            Attempt::TooMany { retry_after: i64::try_from(wait).unwrap_or(i64::MAX) }
        }
        Admission::Unavailable => Attempt::Uncounted,
    }
}
