//! How many decisions there were since the server started, by outcome, for each database that has a
//! place in the queue. They are counted without the lock.
//!
//! Each database has several stripes, and each process adds to one of them, so that few processes
//! write to the same cache line.

use super::MOST_DATABASES;
use keysmith_core::policy::verdict::Reason;
use pg::server;
use pg::shmem::{Region, shareable};
use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const STRIPES: usize = 32;
const REASONS: usize = Reason::ALL.len();

pub static REGION: Region<u8, Stripe> = Region::new(c"keysmith decisions", || Ok(0))
    .with_elements(|| MOST_DATABASES * STRIPES, |_, _| Stripe::default());

shareable! {
    #[derive(Default)]
    #[repr(C, align(64))]
    pub struct Stripe {
        /// By reason: decisions whose key was in the directory, or was not looked for, and those
        /// whose key was not in it.
        counts: [[AtomicU64; REASONS]; 2],
    }
}

impl Stripe {
    #[inline]
    pub fn count(&self, reason: Reason, is_miss: bool) {
        let counts = self.counts.get(usize::from(is_miss));
        if let Some(count) = counts.and_then(|counts| counts.get(reason as usize)) {
            count.fetch_add(1, Relaxed);
        }
    }
}

fn stripes(place: usize) -> &'static [Stripe] {
    let all = REGION.whole().map(|(_, stripes)| stripes).unwrap_or_default();
    all.get(place * STRIPES..(place + 1) * STRIPES).unwrap_or_default()
}

/// Where this process counts the decisions of a database.
pub fn own_stripe(place: usize) -> Option<&'static Stripe> {
    stripes(place).get(server::my_number() % STRIPES)
}

/// Begins again from 0.
pub fn clear(place: usize) {
    let counts = stripes(place).iter().flat_map(|stripe| stripe.counts.iter().flatten());
    counts.for_each(|count| count.store(0, Relaxed));
}

/// The decisions of a database.
pub struct Decisions([[u64; REASONS]; 2]);

impl Decisions {
    pub fn of(place: usize) -> Decisions {
        let sum = |row: usize, reason: usize| {
            let count = |stripe: &Stripe| Some(stripe.counts.get(row)?.get(reason)?.load(Relaxed));
            stripes(place).iter().filter_map(count).sum()
        };
        Decisions(array::from_fn(|row| array::from_fn(|reason| sum(row, reason))))
    }

    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        let [others, misses] = &self.0;
        let counts = others.iter().zip(misses).map(|(others, misses)| others + misses);
        Reason::ALL.into_iter().zip(counts)
    }

    /// How many keys were in the directory, and how many were looked for in vain.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let [others, misses] = &self.0;
        let looked_for = Reason::ALL.into_iter().zip(others).filter(|(reason, _)| {
            !matches!(
                reason,
                Reason::Public
                    | Reason::Missing
                    | Reason::MalformedHeader
                    | Reason::MalformedKey
                    | Reason::TokenInvalid
                    | Reason::ReplicaBehind
            )
        });
        (looked_for.map(|(_, count)| count).sum(), misses.iter().sum())
    }
}
