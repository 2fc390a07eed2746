//! Sessions that take calls from the same limits.

use crate::in_every_order;
use keysmith_core::buckets::Part;
use keysmith_core::claims::{Admission, Claim, LockedParts};
use keysmith_core::gcra::Rate;
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use std::ops::{Deref, DerefMut};

const SECOND: u64 = 1_000_000;

struct Guard<'a>(MutexGuard<'a, Box<Part>>);

impl Deref for Guard<'_> {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.0
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.0
    }
}

/// Two parts with room for so many buckets each.
struct Table([Mutex<Box<Part>>; 2]);

impl Table {
    fn new(capacity: usize) -> Arc<Table> {
        // A part is larger than the stack of a thread of loom's.
        let part = || std::thread::spawn(move || Box::new(Part::new(capacity))).join().unwrap();
        Arc::new(Table([part(), part()].map(Mutex::new)))
    }

    fn take(&self, claims: &[Claim<'static>], now: u64) -> Admission<'static> {
        let lock = |n: usize| self.0.get(n).map(|part| Guard(part.lock().unwrap()));
        LockedParts::all(&mut claims.to_vec(), self.0.len(), lock).take(now)
    }
}

/// A claim on a bucket of a part that refills a call a second.
fn claim(part: u128, bucket: u128, burst: u32) -> Claim<'static> {
    let rate = Rate::new(1, SECOND, burst).unwrap();
    Claim {
        name: b"name",
        unit: b"calls",
        weight: 1,
        rate,
        bucket: part << 64 | bucket,
        owner: bucket as u64,
        mark: None,
    }
}

fn passed(outcome: Admission) -> usize {
    usize::from(matches!(outcome, Admission::Passed { .. }))
}

/// Sessions name the limits in different orders. They wait for each other, but not for ever;
/// as many pass as the smaller limit lets, and the others take nothing from the larger one.
#[test]
fn counts_are_exact_and_taken_from_all_limits_or_none() {
    in_every_order(3, || {
        let table = Table::new(4);
        let sessions = [false, true].map(|is_turned| {
            let table = table.clone();
            thread::spawn(move || {
                let mut claims = [claim(0, 1, 3), claim(1, 2, 2)];
                if is_turned {
                    claims.reverse();
                }
                passed(table.take(&claims, 0))
            })
        });
        let alone = passed(table.take(&[claim(1, 2, 2)], 0));
        let both: usize = sessions.map(|session| session.join().unwrap()).iter().sum();
        assert_eq!(alone + both, 2);
        let left: usize = (0..3).map(|_| passed(table.take(&[claim(0, 1, 3)], 0))).sum();
        assert_eq!(left, 3 - both, "a refused call was taken from the larger limit");
    });
}

/// A part with one place is swept for each newcomer.
#[test]
fn a_bucket_in_use_keeps_its_place() {
    in_every_order(3, || {
        let table = Table::new(1);
        let sessions = [1, 2].map(|bucket| {
            let table = table.clone();
            thread::spawn(move || passed(table.take(&[claim(0, bucket, 1)], 0)))
        });
        let passes = sessions.map(|session| session.join().unwrap());
        assert_eq!(passes.iter().sum::<usize>(), 1, "one place, one bucket");
        for (bucket, pass) in [1, 2].into_iter().zip(passes) {
            let outcome = table.take(&[claim(0, bucket, 1)], SECOND / 2);
            match pass {
                0 => assert_eq!(outcome, Admission::Unavailable),
                _ => assert!(matches!(outcome, Admission::Refused { .. })),
            }
        }
        // A bucket that is full again makes room for the other one.
        let newcomer = [1, 2][passes.iter().position(|pass| *pass == 0).unwrap()];
        assert_eq!(passed(table.take(&[claim(0, newcomer, 1)], SECOND)), 1);
    });
}
