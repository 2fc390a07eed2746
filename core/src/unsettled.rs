//! Requests with weights and what they took from limits, until it is known what they really used.
//!
//! Each part has a fixed number of places. A request has a place for each limit that it took something from,
//! or one if there is no such limit. If all places are taken, the oldest request of the tenant with the most
//! makes room: no tenant can crowd out another.

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

/// Tenants are told apart by a byte of their id. Two that have the same count as one.
const TENANTS: usize = 256;

/// A part of the table. The requests of an id are all in one.
pub struct Unsettled {
    places: [Option<Place>; PLACES],
    /// The bits of free places.
    free: u64,
    /// The numbers of the requests in all places, in the order in which they came; 0 in a free one.
    numbers: [u32; PLACES],
    tenants: [u8; PLACES],
    /// How many places each tenant has.
    counts: [u8; TENANTS],
    number: u32,
    capacity: usize,
    /// The place that is looked at next, whether it can still be settled.
    next: usize,
}

impl Unsettled {
    pub const fn new(capacity: usize) -> Unsettled {
        let capacity = if capacity < PLACES { capacity } else { PLACES };
        Unsettled {
            places: [None; PLACES],
            free: if capacity == PLACES { u64::MAX } else { (1 << capacity) - 1 },
            numbers: [0; PLACES],
            tenants: [0; PLACES],
            counts: [0; TENANTS],
            number: 0,
            capacity,
            next: 0,
        }
    }

    /// Remembers a request, and what it took. Returns for how many limits others that could still be settled
    /// were forgotten for it.
    pub fn remember(
        &mut self,
        decided: Decided,
        taken: impl Iterator<Item = Taken>,
        now: u64,
    ) -> u64 {
        let mut lost = 0;
        self.number = self.number.wrapping_add(1).max(1);
        // One without a limit has a place, too.
        let mut taken = taken.peekable();
        if taken.peek().is_none() {
            lost += self.put(Place { decided, at: now, taken: None });
        }
        for taken in taken {
            lost += self.put(Place { decided, at: now, taken: Some(taken) });
        }
        lost
    }

    fn put(&mut self, new: Place) -> u64 {
        let lost = if self.free == 0 { self.make_room(new.at) } else { 0 };
        let n = self.free.trailing_zeros() as usize;
        let tenant = new.decided.tenant as u8;
        if let (Some(place), Some(number), Some(of)) =
            (self.places.get_mut(n), self.numbers.get_mut(n), self.tenants.get_mut(n))
        {
            (*place, *number, *of) = (Some(new), self.number, tenant);
            self.free &= self.free - 1;
            if let Some(count) = self.counts.get_mut(usize::from(tenant)) {
                *count += 1;
            }
        }
        lost
    }

    /// Forgets a request that is too old, or else the oldest one of the tenant with the most.
    fn make_room(&mut self, now: u64) -> u64 {
        let place = self.places.get(self.next).and_then(Option::as_ref);
        let over = place.filter(|place| is_over(place, now)).and(self.numbers.get(self.next));
        let over = over.copied();
        self.next = (self.next + 1) % self.capacity.max(1);
        let number = over.unwrap_or_else(|| self.oldest_of_largest());
        let mut lost = 0;
        for n in 0..self.capacity {
            if self.numbers.get(n) == Some(&number) && self.clear(n).is_some() && over.is_none() {
                lost += 1;
            }
        }
        lost
    }

    fn oldest_of_largest(&self) -> u32 {
        let most = self.counts.iter().copied().max().unwrap_or_default();
        let largest = self.counts.iter().position(|count| *count == most).unwrap_or_default();
        // Numbers that are not the tenant's become the greatest.
        let of = |(number, tenant): (&u32, &u8)| {
            *number | if usize::from(*tenant) == largest { 0 } else { u32::MAX }
        };
        self.numbers.iter().zip(&self.tenants).take(self.capacity).map(of).min().unwrap_or_default()
    }

    fn clear(&mut self, n: usize) -> Option<Place> {
        let place = self.places.get_mut(n)?.take()?;
        let tenant = std::mem::take(self.tenants.get_mut(n)?);
        *self.numbers.get_mut(n)? = 0;
        *self.counts.get_mut(usize::from(tenant))? -= 1;
        self.free |= 1 << n;
        Some(place)
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
        for n in 0..self.capacity {
            let is_there = self.places.get(n).and_then(Option::as_ref).is_some_and(is_it);
            if is_there
                && let Some(known) = self.clear(n)
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

    fn remember(part: &mut Unsettled, decided: Decided, taken: Option<Taken>, now: u64) -> u64 {
        part.remember(decided, taken.into_iter(), now)
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
        let two = taken(b"tokens", 5).into_iter().chain(taken(b"seconds", 7));
        assert_eq!(part.remember(decided(1), two, 0), 0);
        assert_eq!(remember(&mut part, decided(2), taken(b"tokens", 6), 0), 0);
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
        assert_eq!(remember(&mut part, decided(1), taken(b"a", 1), 0), 0);
        assert_eq!(remember(&mut part, decided(2), taken(b"a", 1), 0), 0);
        assert_eq!(remember(&mut part, decided(3), taken(b"a", 1), KEPT), 1);
        assert_eq!(remember(&mut part, decided(4), taken(b"a", 1), KEPT + 1), 0);
        assert!(known(&mut part, request(1), KEPT).is_empty());
        assert!(known(&mut part, request(3), 2 * KEPT + 1).is_empty());
        assert_eq!(known(&mut part, request(4), KEPT + 2).len(), 1);
        assert_eq!(remember(&mut Unsettled::new(0), decided(1), taken(b"a", 1), 0), 0);
    }

    #[test]
    fn the_tenant_with_the_most_makes_room() {
        let mut part = Unsettled::new(8);
        for id in 1..=4 {
            assert_eq!(
                remember(
                    &mut part,
                    Decided { tenant: 6, ..decided(id) },
                    taken(b"a", 1),
                    id as u64
                ),
                0
            );
        }
        for id in 11..=40 {
            assert_eq!(
                remember(&mut part, decided(id), taken(b"a", 1), id as u64),
                u64::from(id > 14)
            );
        }
        // The newest of both are there.
        for id in (1..=4).chain(37..=40) {
            assert_eq!(known(&mut part, request(id), 41).len(), 1, "{id}");
        }
        // Two tenants together take nothing from a third one.
        let mut part = Unsettled::new(8);
        let of = |tenant, id: u128| Decided { tenant, ..decided(id) };
        (1..=2).for_each(|id| _ = remember(&mut part, of(7, id), taken(b"a", 1), id as u64));
        (11..=60).for_each(|id| {
            _ = remember(&mut part, of(5 + id as u64 % 2, id), taken(b"a", 1), id as u64)
        });
        for id in (1..=2).chain(55..=60) {
            assert_eq!(known(&mut part, request(id), 61).len(), 1, "{id}");
        }
        // Alone it may have all.
        let mut part = Unsettled::new(8);
        (1..=20).for_each(|id| _ = remember(&mut part, decided(id), taken(b"a", 1), id as u64));
        assert!((13..=20).all(|id| known(&mut part, request(id), 21).len() == 1));
    }

    #[test]
    fn a_request_that_no_limit_counts_is_settled_once() {
        let mut part = Unsettled::new(2);
        assert_eq!(remember(&mut part, decided(2), None, 0), 0);
        let mut forget = |now| part.forget(request(2), now, |_| true, |_| panic!());
        assert_eq!(forget(1), Some(decided(2)));
        assert_eq!(forget(1), None);
        assert_eq!(remember(&mut part, decided(2), None, 0), 0);
        assert_eq!(part.forget(request(2), KEPT + 1, |_| true, |_| ()), None);
    }
}
