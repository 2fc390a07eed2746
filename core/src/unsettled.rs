//! Requests with weights and what they took from limits, until it is known what they really used.
//!
//! Each part has a fixed number of places, which are taken in the order in which requests come. If all are
//! taken, the newest one takes the place of the oldest of the tenant with the most. A request has a place for each limit that it took something from, or
//! one if there is no such limit.

use crate::buckets::Owner;
use crate::claims::Claim;
use crate::gcra::{Mark, Rate};
use crate::policy::weights::MAX_NAME;

/// How many places a part has at most.
pub const PLACES: usize = 64;
/// How long a request can be settled, in microseconds.
pub const KEPT: u64 = 15 * 60 * 1_000_000;

/// A request of a database. Its keyspace is known by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: u128,
    pub database: u32,
}

/// A request that can be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    pub request: Request,
    /// The hash of its keyspace.
    pub keyspace: u128,
    /// The end of its tenant's id, which is random.
    pub tenant: u64,
    /// Whether usage has a record of it.
    pub is_recorded: bool,
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
    /// The moment of the bucket after it.
    pub mark: Option<Mark>,
}

impl Taken {
    pub fn of(claim: &Claim, mark: Option<Mark>) -> Taken {
        let mut unit = [0; MAX_NAME];
        let length = claim.unit.len().min(MAX_NAME);
        for (to, from) in unit.iter_mut().zip(claim.unit) {
            *to = *from;
        }
        let Claim { weight, rate, bucket, owner, .. } = *claim;
        Taken { unit, length: length as u8, weight, rate, bucket, owner, mark }
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
    decided: Decided,
    at: u64,
    /// `None` if no limit counts it.
    taken: Option<Taken>,
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

    /// Remembers a request, and what it took. False if another one that could still be settled was
    /// forgotten for it.
    pub fn remember(&mut self, decided: Decided, taken: Option<Taken>, now: u64) -> bool {
        let n = self.place_for(&decided, now);
        let Some(place) = self.places.get_mut(n).filter(|_| n < self.capacity) else {
            return false;
        };
        let before = place.replace(Place { decided, at: now, taken });
        if n == self.next {
            self.next = (self.next + 1) % self.capacity;
        }
        before.is_none_or(|before| is_over(&before, now))
    }

    /// The next place, if it is free. Otherwise the oldest one of the tenant with the most: of this tenant,
    /// if others have no more.
    fn place_for(&self, decided: &Decided, now: u64) -> usize {
        let taken = |place: &Option<Place>| {
            place.as_ref().filter(|place| !is_over(place, now)).map(|place| place.decided.tenant)
        };
        if self.places.get(self.next).and_then(taken).is_none() {
            return self.next;
        }
        let mut tenants = [0; PLACES + 1];
        let mut count = 0;
        let all = self.places.iter().filter_map(taken).chain([decided.tenant]);
        for (place, tenant) in tenants.iter_mut().zip(all) {
            *place = tenant;
            count += 1;
        }
        let tenants = tenants.get_mut(..count).unwrap_or_default();
        tenants.sort_unstable();
        let most = tenants
            .chunk_by(|one, other| one == other)
            .filter_map(|of_one| Some((of_one.len(), *of_one.first()?)))
            .max_by_key(|(places, tenant)| (*places, *tenant == decided.tenant))
            .map_or(decided.tenant, |(_, tenant)| tenant);
        let of = |n: &usize| self.places.get(*n).and_then(taken) == Some(most);
        let age = |n: &usize| self.places.get(*n).and_then(Option::as_ref).map(|place| place.at);
        (0..self.capacity).filter(of).min_by_key(age).unwrap_or(self.next)
    }

    /// Forgets a request, and passes what it took to `with`. `None` if it is unknown, or if it is not theirs
    /// who ask, by the hash of its keyspace.
    pub fn forget(
        &mut self,
        request: Request,
        now: u64,
        is_theirs: impl Fn(u128) -> bool,
        mut with: impl FnMut(Taken),
    ) -> Option<Decided> {
        let mut found = None;
        let is_it =
            |known: &Place| known.decided.request == request && is_theirs(known.decided.keyspace);
        for place in &mut self.places {
            if let Some(known) = place.take_if(|known| is_it(known))
                && !is_over(&known, now)
            {
                found = Some(known.decided);
                known.taken.into_iter().for_each(&mut with);
            }
        }
        found
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

    fn decided(id: u128) -> Decided {
        Decided { request: request(id), keyspace: 8, tenant: 5, is_recorded: id.is_multiple_of(2) }
    }

    fn taken(unit: &[u8], weight: u32) -> Option<Taken> {
        let rate = Rate::new(1, 1_000_000, 9).unwrap();
        let claim = Claim { name: b"name", unit, rate, weight, bucket: 7, owner: 3 };
        Some(Taken::of(&claim, None))
    }

    fn known(part: &mut Unsettled, request: Request, now: u64) -> Vec<Option<Taken>> {
        let mut all = Vec::new();
        let push = |taken| all.push(Some(taken));
        let found = part.forget(request, now, |keyspace| keyspace == 8, push);
        assert_eq!(found.is_some(), !all.is_empty());
        assert!(found.is_none_or(|found| found.is_recorded == (request.id.is_multiple_of(2))));
        all
    }

    #[test]
    fn a_request_is_settled_once_with_all_that_it_took() {
        let mut part = Unsettled::new(4);
        assert!(part.remember(decided(1), taken(b"tokens", 5), 0));
        assert!(part.remember(decided(2), taken(b"tokens", 6), 0));
        assert!(part.remember(decided(1), taken(b"seconds", 7), 0));
        assert!(known(&mut part, Request { database: 2, ..request(1) }, 0).is_empty());
        assert!(part.forget(request(1), 0, |keyspace| keyspace == 9, |_| ()).is_none());
        assert_eq!(known(&mut part, request(1), 0), [taken(b"tokens", 5), taken(b"seconds", 7)]);
        assert!(known(&mut part, request(1), 0).is_empty());
        let [Some(of_two)] = known(&mut part, request(2), KEPT)[..] else { panic!() };
        let claim = of_two.claim();
        assert_eq!((claim.unit, claim.weight, claim.bucket), (&b"tokens"[..], 6, 7));
    }

    #[test]
    fn the_oldest_is_forgotten_and_counts_if_it_was_not_over() {
        let mut part = Unsettled::new(2);
        assert!(part.remember(decided(1), taken(b"a", 1), 0));
        assert!(part.remember(decided(2), taken(b"a", 1), 0));
        assert!(!part.remember(decided(3), taken(b"a", 1), KEPT));
        assert!(part.remember(decided(4), taken(b"a", 1), KEPT + 1));
        assert!(known(&mut part, request(1), KEPT).is_empty());
        assert!(known(&mut part, request(3), 2 * KEPT + 1).is_empty());
        assert_eq!(known(&mut part, request(4), KEPT + 2).len(), 1);
        assert!(!Unsettled::new(0).remember(decided(1), taken(b"a", 1), 0));
    }

    #[test]
    fn the_tenant_with_the_most_makes_room() {
        let mut part = Unsettled::new(8);
        for id in 1..=4 {
            assert!(part.remember(Decided { tenant: 6, ..decided(id) }, taken(b"a", 1), id as u64));
        }
        for id in 11..=40 {
            assert_eq!(part.remember(decided(id), taken(b"a", 1), id as u64), id <= 14);
        }
        // The newest of both are there.
        for id in (1..=4).chain(37..=40) {
            assert_eq!(known(&mut part, request(id), 41).len(), 1, "{id}");
        }
        // Two tenants together take nothing from a third one.
        let mut part = Unsettled::new(8);
        let of = |tenant, id: u128| Decided { tenant, ..decided(id) };
        (1..=2).for_each(|id| _ = part.remember(of(7, id), taken(b"a", 1), id as u64));
        (11..=60)
            .for_each(|id| _ = part.remember(of(5 + id as u64 % 2, id), taken(b"a", 1), id as u64));
        for id in (1..=2).chain(55..=60) {
            assert_eq!(known(&mut part, request(id), 61).len(), 1, "{id}");
        }
        // Alone it may have all.
        let mut part = Unsettled::new(8);
        (1..=20).for_each(|id| _ = part.remember(decided(id), taken(b"a", 1), id as u64));
        assert!((13..=20).all(|id| known(&mut part, request(id), 21).len() == 1));
    }

    #[test]
    fn a_request_that_no_limit_counts_is_settled_once() {
        let mut part = Unsettled::new(2);
        assert!(part.remember(decided(2), None, 0));
        let mut forget = |now| part.forget(request(2), now, |_| true, |_| panic!());
        assert_eq!(forget(1), Some(decided(2)));
        assert_eq!(forget(1), None);
        assert!(part.remember(decided(2), None, 0));
        assert_eq!(part.forget(request(2), KEPT + 1, |_| true, |_| ()), None);
    }
}
