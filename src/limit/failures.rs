//! Failed attempts of an address: how many are left, and how one is counted.

use super::table::{BucketTable, now};
use keysmith_core::claims::{Admission, Claim};
use keysmith_core::gcra::Rate;
use keysmith_core::policy::failures::Source;
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
    /// There is no room to count it, or no table.
    Uncounted,
}

/// Counts a failed attempt.
pub fn count(keyspace: &[u8], address: IpAddr, rate: Rate) -> Attempt {
    let Some(table) = BucketTable::of_failures() else { return Attempt::Uncounted };
    let claims = [claim(table, keyspace, address, rate)];
    let outcome = table.lock(&claims).take(now(), 1);
    if matches!(outcome, Admission::Unavailable) {
        table.count_refusal();
    }
    told(outcome)
}

/// Answers as `count` would, and counts nothing.
pub fn peek(keyspace: &[u8], address: IpAddr, rate: Rate) -> Attempt {
    let Some(table) = BucketTable::of_failures() else { return Attempt::Uncounted };
    let claims = [claim(table, keyspace, address, rate)];
    told(table.lock(&claims).look(now(), 1))
}

fn claim(table: BucketTable, keyspace: &[u8], address: IpAddr, rate: Rate) -> Claim<'static> {
    let source = Source::of(address);
    let hasher = SipHasher::new(table.key());
    let mut of_keyspace = hasher.clone();
    of_keyspace.fixed(&server::my_database().to_u32().to_ne_bytes()).sized(keyspace);
    Claim { name: b"", rate, bucket: source.bucket(of_keyspace), owner: source.owner(hasher) }
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
