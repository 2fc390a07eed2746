//! What decisions took from limits, until it is known what the requests really used.
//!
//! Each part remembers a fixed number of takings, in the order in which they came. The newest one takes
//! the place of the oldest.

use crate::buckets::Owner;
use crate::claims::Claim;
use crate::gcra::Rate;
use crate::policy::weights::MAX_NAME;

/// How many takings a part has room for at most.
pub const PLACES: usize = 64;
/// How long a request can be settled, in microseconds.
pub const KEPT: u64 = 15 * 60 * 1_000_000;

/// A request of a database. Its keyspace is known by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: u128,
    pub database: u32,
}

/// What a request took from one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    unit: [u8; MAX_NAME],
    length: u8,
    pub weight: u32,
    rate: Rate,
    bucket: u128,
    owner: Owner,
}

impl Taken {
    pub fn of(claim: &Claim) -> Taken {
        let mut unit = [0; MAX_NAME];
        let length = claim.unit.len().min(MAX_NAME);
        for (to, from) in unit.iter_mut().zip(claim.unit) {
            *to = *from;
        }
        let Claim { weight, rate, bucket, owner, .. } = *claim;
        Taken { unit, length: length as u8, weight, rate, bucket, owner }
    }

    pub fn unit(&self) -> &[u8] {
        self.unit.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The claim on the same bucket.
    pub fn claim(&self) -> Claim<'_> {
        let Taken { weight, rate, bucket, owner, .. } = *self;
        Claim { name: b"", unit: self.unit(), rate, weight, bucket, owner }
    }
}

#[derive(Clone, Copy)]
struct Place {
    request: Request,
    keyspace: u128,
    at: u64,
    taken: Taken,
}

/// A part of the table. The requests of an id are all in one.
pub struct Unsettled {
    places: [Option<Place>; PLACES],
    capacity: usize,
    next: usize,
}

impl Unsettled {
    pub const fn new(capacity: usize) -> Unsettled {
        let capacity = if capacity < PLACES { capacity } else { PLACES };
        Unsettled { places: [None; PLACES], capacity, next: 0 }
    }

    /// Remembers what a request took. False if another one that could still be settled was forgotten
    /// for it.
    pub fn remember(&mut self, request: Request, keyspace: u128, taken: Taken, now: u64) -> bool {
        let Some(place) = self.places.get_mut(self.next).filter(|_| self.next < self.capacity)
        else {
            return false;
        };
        let before = place.replace(Place { request, keyspace, at: now, taken });
        self.next = (self.next + 1) % self.capacity;
        before.is_none_or(|before| is_over(&before, now))
    }

    /// Forgets what a request took, and passes it to `with`. False if nothing is known, or if it is not
    /// theirs who ask, by the hash of its keyspace.
    pub fn forget(
        &mut self,
        request: Request,
        now: u64,
        is_theirs: impl Fn(u128) -> bool,
        mut with: impl FnMut(Taken),
    ) -> bool {
        let mut is_known = false;
        let is_it = |known: &Place| known.request == request && is_theirs(known.keyspace);
        for place in &mut self.places {
            if let Some(known) = place.take_if(|known| is_it(known))
                && !is_over(&known, now)
            {
                is_known = true;
                with(known.taken);
            }
        }
        is_known
    }
}

fn is_over(place: &Place, now: u64) -> bool {
    now.saturating_sub(place.at) > KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u128) -> Request {
        Request { id, database: 1 }
    }

    fn taken(unit: &[u8], weight: u32) -> Taken {
        let rate = Rate::new(1, 1_000_000, 9).unwrap();
        Taken::of(&Claim { name: b"name", unit, rate, weight, bucket: 7, owner: 3 })
    }

    fn known(part: &mut Unsettled, request: Request, now: u64) -> Vec<Taken> {
        let mut all = Vec::new();
        let is_known = part.forget(request, now, |keyspace| keyspace == 8, |taken| all.push(taken));
        assert_eq!(is_known, !all.is_empty());
        all
    }

    #[test]
    fn a_request_is_settled_once_with_all_that_it_took() {
        let mut part = Unsettled::new(4);
        assert!(part.remember(request(1), 8, taken(b"tokens", 5), 0));
        assert!(part.remember(request(2), 8, taken(b"tokens", 6), 0));
        assert!(part.remember(request(1), 8, taken(b"seconds", 7), 0));
        assert!(known(&mut part, Request { database: 2, ..request(1) }, 0).is_empty());
        assert!(!part.forget(request(1), 0, |keyspace| keyspace == 9, |_| ()));
        assert_eq!(known(&mut part, request(1), 0), [taken(b"tokens", 5), taken(b"seconds", 7)]);
        assert!(known(&mut part, request(1), 0).is_empty());
        let [of_two] = known(&mut part, request(2), KEPT)[..] else { panic!() };
        let claim = of_two.claim();
        assert_eq!((claim.unit, claim.weight, claim.bucket), (&b"tokens"[..], 6, 7));
    }

    #[test]
    fn the_oldest_is_forgotten_and_counts_if_it_was_not_over() {
        let mut part = Unsettled::new(2);
        assert!(part.remember(request(1), 8, taken(b"a", 1), 0));
        assert!(part.remember(request(2), 8, taken(b"a", 1), 0));
        assert!(!part.remember(request(3), 8, taken(b"a", 1), KEPT));
        assert!(part.remember(request(4), 8, taken(b"a", 1), KEPT + 1));
        assert!(known(&mut part, request(1), KEPT).is_empty());
        assert!(known(&mut part, request(3), 2 * KEPT + 1).is_empty());
        assert_eq!(known(&mut part, request(4), KEPT + 2).len(), 1);
        assert!(!Unsettled::new(0).remember(request(1), 8, taken(b"a", 1), 0));
    }
}
