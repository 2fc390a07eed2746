//! Requests with weights and what they took from limits, until it is known what they really used.
//!
//! Each part has a fixed number of places. A request has one, or more if it took something from more limits
//! than a place has room for. If all places are taken, the oldest request of the tenant with the most makes
//! room: no tenant can crowd out another.

use crate::buckets::Owner;
use crate::claims::Claim;
use crate::gcra::{Mark, Rate};
use crate::policy::weights::MAX_NAME;

/// How many places a part has at most.
pub const PLACES: usize = 64;
/// What a request took from how many limits fits into a place.
const LIMITS: usize = 4;
/// The most limits of a request that are remembered.
pub const MOST_LIMITS: usize = PLACES * LIMITS;
/// How long a request can be settled, in microseconds.
pub const KEPT: u64 = 15 * 60 * 1_000_000;

/// A name of at most so many bytes, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<const MOST: usize> {
    bytes: [u8; MOST],
    length: u8,
}

impl<const MOST: usize> Name<MOST> {
    /// No name is longer. One that is would be cut.
    pub fn of(name: &[u8]) -> Name<MOST> {
        let (mut bytes, length) = ([0; MOST], name.len().min(MOST));
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
        }
        Name { bytes, length: length as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// The longest name of a keyspace.
const MAX_KEYSPACE: usize = 63;

/// A request of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: u128,
    pub database: u32,
}

/// A request that can be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    pub request: Request,
    pub keyspace: Name<MAX_KEYSPACE>,
    /// The end of its tenant's id, which is random.
    pub tenant: u64,
    /// Whether usage has a record of it.
    pub is_recorded: bool,
}

/// What a request took from one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    unit: Name<MAX_NAME>,
    weight: u32,
    rate: Rate,
    bucket: u128,
    owner: Owner,
    mark: Option<Mark>,
}

impl Taking {
    fn of(claim: &Claim) -> Taking {
        let Claim { weight, rate, bucket, owner, mark, .. } = *claim;
        Taking { unit: Name::of(claim.unit), weight, rate, bucket, owner, mark }
    }

    /// The claim that took it.
    pub fn claim(&self) -> Claim<'_> {
        let Taking { weight, rate, bucket, owner, mark, .. } = *self;
        Claim { name: b"", unit: self.unit.as_bytes(), rate, weight, bucket, owner, mark }
    }
}

#[derive(Clone, Copy)]
struct Place {
    decided: Decided,
    at: u64,
    taken: [Option<Taking>; LIMITS],
}

/// Tenants are told apart by a byte of their id. Two that have the same count as one.
const TENANTS: usize = 256;

/// A part of the table. The requests of an id are all in one.
pub struct Unsettled {
    places: [Option<Place>; PLACES],
    /// The places in use, the oldest first, and after them those that are free. The places of a request
    /// follow each other.
    order: [u8; PLACES],
    in_use: usize,
    capacity: usize,
    /// The numbers of the requests in the places.
    numbers: [u32; PLACES],
    number: u32,
    tenants: [u8; PLACES],
    /// How many places each tenant has.
    counts: [u8; TENANTS],
}

impl Unsettled {
    pub fn new(capacity: usize) -> Unsettled {
        Unsettled {
            places: [None; PLACES],
            order: std::array::from_fn(|n| n as u8),
            in_use: 0,
            capacity: capacity.min(PLACES),
            numbers: [0; PLACES],
            number: 0,
            tenants: [0; PLACES],
            counts: [0; TENANTS],
        }
    }

    /// Remembers a request, and what it took. Returns for how many limits others that could still be settled
    /// were forgotten for it; one without a limit counts as one.
    pub fn remember<'c, 'a: 'c>(
        &mut self,
        decided: Decided,
        mut taken: impl Iterator<Item = &'c Claim<'a>>,
        now: u64,
    ) -> u64 {
        let mut lost = 0;
        self.number = self.number.wrapping_add(1);
        let mut first = taken.next();
        loop {
            let others = taken.by_ref().take(LIMITS - 1);
            lost += self.put(decided, first.into_iter().chain(others), now);
            first = taken.next();
            if first.is_none() {
                return lost;
            }
        }
    }

    fn put<'c, 'a: 'c>(
        &mut self,
        decided: Decided,
        taken: impl Iterator<Item = &'c Claim<'a>>,
        now: u64,
    ) -> u64 {
        let tenant = decided.tenant as u8;
        let is_full = self.in_use >= self.capacity;
        let lost = if is_full { self.make_room(tenant, now) } else { 0 };
        if self.in_use >= self.capacity {
            return lost;
        }
        let n = self.at(self.in_use);
        if let (Some(place), Some(number), Some(of), Some(count)) = (
            self.places.get_mut(n),
            self.numbers.get_mut(n),
            self.tenants.get_mut(n),
            self.counts.get_mut(usize::from(tenant)),
        ) {
            let place = place.insert(Place { decided, at: now, taken: [None; LIMITS] });
            for (to, claim) in place.taken.iter_mut().zip(taken) {
                *to = Some(Taking::of(claim));
            }
            (*number, *of) = (self.number, tenant);
            *count += 1;
            self.in_use += 1;
        }
        lost
    }

    /// Forgets the oldest request if it is too old, or else the oldest one of a tenant with the most.
    fn make_room(&mut self, tenant: u8, now: u64) -> u64 {
        let is_over = self.place(0).is_some_and(|place| is_over(place, now));
        let rank = if is_over { Some(0) } else { self.oldest_of_largest(tenant) };
        let Some(rank) = rank else { return 0 };
        let number = self.number(rank);
        let mut lost = 0;
        while rank < self.in_use && self.number(rank) == number {
            let limits = self.place(rank).map_or(0, |place| place.taken.iter().flatten().count());
            lost += limits.max(1) as u64;
            self.clear(rank);
        }
        if is_over { 0 } else { lost }
    }

    /// The oldest request of a tenant with the most; of the one that asks for room, if it has as many. A
    /// request with many limits does not make room for itself.
    fn oldest_of_largest(&self, asking: u8) -> Option<usize> {
        let count = |tenant: u8| self.counts.get(usize::from(tenant)).copied();
        let most = self.counts.iter().copied().max();
        let asks_itself = count(asking) == most;
        let oldest = |gives: &dyn Fn(u8) -> bool| {
            let mut order = self.order.iter().take(self.in_use).map(|n| usize::from(*n));
            order.position(|n| {
                self.tenants.get(n).is_some_and(|tenant| gives(*tenant))
                    && self.numbers.get(n) != Some(&self.number)
            })
        };
        oldest(&|tenant| if asks_itself { tenant == asking } else { count(tenant) == most })
            .or_else(|| oldest(&|_| true))
    }

    /// The place of a rank in the order.
    fn at(&self, rank: usize) -> usize {
        self.order.get(rank).map_or(PLACES, |n| usize::from(*n))
    }

    fn place(&self, rank: usize) -> Option<&Place> {
        self.places.get(self.at(rank)).and_then(Option::as_ref)
    }

    fn number(&self, rank: usize) -> Option<u32> {
        self.numbers.get(self.at(rank)).copied()
    }

    /// Frees the place of a rank, which becomes the first of the free ones.
    fn clear(&mut self, rank: usize) {
        let n = self.at(rank);
        if let (Some(place), Some(tenant), Some(order @ [_, ..])) =
            (self.places.get_mut(n), self.tenants.get(n), self.order.get_mut(rank..self.in_use))
        {
            *place = None;
            order.rotate_left(1);
            self.in_use -= 1;
            if let Some(count) = self.counts.get_mut(usize::from(*tenant)) {
                *count -= 1;
            }
        }
    }

    /// Forgets a request, and passes what it took to `with`. `None` if it is unknown, or if its keyspace is
    /// not theirs who ask.
    pub fn forget(
        &mut self,
        request: Request,
        now: u64,
        is_theirs: impl Fn(&[u8]) -> bool,
        mut with: impl FnMut(Taking),
    ) -> Option<Decided> {
        let mut found = None;
        let is_it = |known: &Place| {
            known.decided.request == request && is_theirs(known.decided.keyspace.as_bytes())
        };
        let mut rank = 0;
        while rank < self.in_use {
            let Some(known) = self.place(rank).filter(|known| is_it(known)).copied() else {
                rank += 1;
                continue;
            };
            self.clear(rank);
            if !is_over(&known, now) {
                found = Some(known.decided);
                known.taken.into_iter().flatten().for_each(&mut with);
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
    use crate::policy::name::is_identifier;

    fn request(id: u128) -> Request {
        Request { id, database: 1 }
    }

    fn decided(id: u128) -> Decided {
        Decided {
            request: request(id),
            keyspace: Name::of(b"8"),
            tenant: 5,
            is_recorded: id.is_multiple_of(2),
        }
    }

    fn taken(unit: &'static [u8], weight: u32) -> Option<Claim<'static>> {
        let rate = Rate::new(1, 1_000_000, 9).unwrap();
        Some(Claim { name: b"name", unit, rate, weight, bucket: 7, owner: 3, mark: None })
    }

    fn remember(
        part: &mut Unsettled,
        decided: Decided,
        taken: Option<Claim<'static>>,
        now: u64,
    ) -> u64 {
        part.remember(decided, taken.iter(), now)
    }

    fn known(part: &mut Unsettled, request: Request, now: u64) -> Vec<Taking> {
        let mut all = Vec::new();
        let push = |taken| all.push(taken);
        let found = part.forget(request, now, |keyspace| keyspace == b"8", push);
        assert_eq!(found.is_some(), !all.is_empty());
        assert!(found.is_none_or(|found| found.is_recorded == (request.id.is_multiple_of(2))));
        all
    }

    #[test]
    fn a_request_is_settled_once_with_all_that_it_took() {
        let mut part = Unsettled::new(4);
        let two = [taken(b"tokens", 5).unwrap(), taken(b"seconds", 7).unwrap()];
        assert_eq!(part.remember(decided(1), two.iter(), 0), 0);
        assert_eq!(remember(&mut part, decided(2), taken(b"tokens", 6), 0), 0);
        assert!(known(&mut part, Request { database: 2, ..request(1) }, 0).is_empty());
        assert!(part.forget(request(1), 0, |keyspace| keyspace == b"9", |_| ()).is_none());
        assert_eq!(known(&mut part, request(1), 0), two.each_ref().map(Taking::of));
        assert!(known(&mut part, request(1), 0).is_empty());
        let [of_two] = known(&mut part, request(2), KEPT)[..] else { panic!() };
        let claim = of_two.claim();
        assert_eq!((claim.unit, claim.weight, claim.bucket), (&b"tokens"[..], 6, 7));
    }

    #[test]
    fn a_request_with_many_limits_makes_no_room_for_itself() {
        let mut part = Unsettled::new(3);
        for id in 1..=2 {
            let one = taken(b"a", 1);
            assert_eq!(
                part.remember(Decided { tenant: id, ..decided(id.into()) }, one.iter(), 0),
                0
            );
        }
        let nine = [taken(b"a", 1).unwrap(); 9];
        assert_eq!(part.remember(decided(3), nine.iter(), 1), 2);
        assert_eq!(known(&mut part, request(3), 2).len(), 9);
    }

    #[test]
    fn names_are_kept_whole() {
        for length in [0, 1, MAX_NAME - 1, MAX_NAME] {
            let name = vec![b'n'; length];
            assert_eq!(Name::<MAX_NAME>::of(&name).as_bytes(), name);
        }
        let too_long = [b'n'; MAX_NAME + 1];
        assert_eq!(Name::<MAX_NAME>::of(&too_long).as_bytes(), &too_long[..MAX_NAME]);
        let longest = "n".repeat(MAX_KEYSPACE);
        assert!(is_identifier(&longest) && !is_identifier(&(longest + "n")));
    }

    #[test]
    fn a_request_has_as_many_places_as_it_needs() {
        let all: Vec<Claim> = (0..=2 * LIMITS as u32)
            .map(|weight| Claim { weight, ..taken(b"a", 1).unwrap() })
            .collect();
        for (limits, places) in [(0, 1), (1, 1), (LIMITS, 1), (LIMITS + 1, 2), (all.len(), 3)] {
            let mut part = Unsettled::new(3);
            let remembered = all.iter().take(limits);
            assert_eq!(part.remember(decided(2), remembered.clone(), 0), 0);
            assert_eq!(part.in_use, places);
            // It is forgotten as a whole.
            let others = (3..=5 - places as u128).map(decided);
            assert_eq!(others.map(|other| part.remember(other, [].iter(), 1)).sum::<u64>(), 0);
            assert_eq!(part.remember(decided(9), [].iter(), 1), limits.max(1) as u64);
            let mut part = Unsettled::new(3);
            part.remember(decided(2), remembered.clone(), 0);
            let mut found = Vec::new();
            assert!(part.forget(request(2), 0, |_| true, |taken| found.push(taken)).is_some());
            assert_eq!(found, remembered.map(Taking::of).collect::<Vec<_>>());
            assert_eq!(part.in_use, 0);
        }
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
