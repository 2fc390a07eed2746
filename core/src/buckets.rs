//! A part of the table of buckets that all sessions share. It has a fixed number of places.
//!
//! A bucket that is full again can be forgotten, so another bucket may get its place. A bucket
//! that is not full keeps its place: if there is no other, the caller is told. No owner can take
//! so many places that the others get no bucket: see `SHARE`. Whoever sends requests can name any
//! number of subjects and addresses. The buckets of such a crowd take nothing of what their owner
//! has otherwise, and all crowds together take no more than half of a part. A client may have
//! all addresses of a site. They have a share of the crowd, so other sites get buckets, too.

use crate::gcra::{Bucket, Rate};

/// How many places a part has at most.
pub const PLACES: usize = 1024;
/// An owner may have a third as many places as are left, and one if any is left. So an owner
/// gets a quarter of the places that the others leave. Two dozen owners who take what they can
/// fill a part. A site likewise may have a third as many as its crowd may still take.
const SHARE: usize = 3;
/// How many counters of places there are. Owners that share one are counted exactly when it
/// matters.
const COUNTERS: usize = 64;

/// The owner of a bucket, as a hash.
pub type Owner = u64;
/// The owner of buckets that are few and need no share.
pub const NOBODY: Owner = 0;
/// The mark of an owner of a crowd.
const CROWD: Owner = 1 << 63;
/// The mark of a bucket of a crowd that several owners share.
const SHARED: Owner = 1 << 62;
/// The bits of a crowd's owner that tell its sites apart.
const SITE: Owner = (1 << 20) - 1;

/// The owner with some hash.
pub fn owner(hash: u128) -> Owner {
    // A hash is practically never NOBODY. If it is, the next number is used.
    (hash as Owner & !(CROWD | SHARED)).max(NOBODY + 1)
}

/// Who owns the crowd of an owner.
pub fn crowd_of(owner: Owner) -> Owner {
    owner & !SITE | CROWD
}

/// Who owns the buckets of a site in a crowd. `NOBODY` is no site.
pub fn of_site(crowd: Owner, site: Owner) -> Owner {
    if site == NOBODY { crowd } else { crowd | (site & SITE).max(1) }
}

/// The owner of a crowd's bucket that other owners use, too.
pub fn shared(crowd: Owner) -> Owner {
    crowd | SHARED
}

/// Whether a bucket counts requests of others than its owner.
pub fn is_shared(owner: Owner) -> bool {
    owner == NOBODY || owner & SHARED != 0
}

fn is_crowd(owner: Owner) -> bool {
    owner & CROWD != 0
}

/// The crowd that a site is part of. Other owners are whole.
fn whole(owner: Owner) -> Owner {
    if is_crowd(owner) { owner & !SITE } else { owner }
}

#[derive(Clone, Copy)]
struct Place {
    name: u128,
    bucket: Bucket,
    owner: Owner,
    next: u16,
}

/// The number that is no place.
const NONE: u16 = u16::MAX;

pub struct Part {
    capacity: u16,
    occupied: u16,
    /// Places from here on were never used. Places that were given up are in a chain.
    begun: u16,
    given_up: u16,
    counts: Occupied,
    chains: [u16; PLACES],
    places: [Place; PLACES],
}

/// How many places are taken.
struct Occupied {
    of_crowds: u16,
    /// Those of a site are counted for its crowd, too.
    of_owners: [u16; COUNTERS],
}

impl Occupied {
    /// Occupied a place that its owner has got, or has given up.
    fn change(&mut self, owner: Owner, by: impl Fn(u16) -> u16) {
        let whole = whole(owner);
        let others = (owner != whole).then_some(owner);
        for owner in others.into_iter().chain([whole]) {
            if let Some(count) = self.of_owners.get_mut(counter(owner)) {
                *count = by(*count);
            }
        }
        if is_crowd(owner) {
            self.of_crowds = by(self.of_crowds);
        }
    }
}

impl Part {
    pub fn new(capacity: usize) -> Part {
        const VACANT: Place =
            Place { name: 0, bucket: Bucket::full(Rate::SLOWEST), owner: NOBODY, next: NONE };
        Part {
            capacity: u16::try_from(capacity.min(PLACES)).unwrap_or(0),
            occupied: 0,
            begun: 0,
            given_up: NONE,
            counts: Occupied { of_crowds: 0, of_owners: [0; COUNTERS] },
            chains: [NONE; PLACES],
            places: [VACANT; PLACES],
        }
    }

    /// The bucket with a name, if it has a place.
    pub fn find(&self, name: u128) -> Option<Bucket> {
        self.place_of(name).map(|place| place.bucket)
    }

    /// Puts a bucket into its place, or into a new one. False if there is no room.
    pub fn put(&mut self, name: u128, bucket: Bucket, owner: Owner, now: u64) -> bool {
        if let Some(index) = self.index_of(name) {
            if let Some(place) = self.places.get_mut(usize::from(index)) {
                place.bucket = bucket;
            }
            return true;
        }
        let owner = owner & !SHARED;
        if !self.may_have_another(owner, |owner| self.counted(owner)) {
            self.sweep(now);
            if !self.may_have_another(owner, |owner| self.held(owner)) {
                return false;
            }
        }
        self.add(name, bucket, owner)
    }

    /// How many buckets are not full.
    pub fn in_use(&self, now: u64) -> usize {
        self.walk().filter(|place| !place.bucket.is_full(now)).count()
    }

    /// `held` returns how many places an owner or a crowd has.
    fn may_have_another(&self, owner: Owner, held: impl Fn(Owner) -> usize) -> bool {
        let left = usize::from(self.capacity.saturating_sub(self.occupied));
        let is_free = !is_crowd(owner) || self.counts.of_crowds < self.capacity.div_ceil(2);
        if left == 0 || !is_free || owner == NOBODY {
            return left > 0 && is_free;
        }
        let (most, whole) = (left / SHARE, whole(owner));
        let of_whole = held(whole);
        let has_share = |held: usize, most: usize| held == 0 || held < most;
        has_share(of_whole, most)
            && (whole == owner || has_share(held(owner), most.saturating_sub(of_whole) / SHARE))
    }

    /// How many places the owner has, or more.
    fn counted(&self, owner: Owner) -> usize {
        self.counts.of_owners.get(counter(owner)).copied().map_or(0, usize::from)
    }

    /// How many places the owner has.
    fn held(&self, owner: Owner) -> usize {
        self.walk().filter(|place| place.owner == owner || whole(place.owner) == owner).count()
    }

    fn add(&mut self, name: u128, bucket: Bucket, owner: Owner) -> bool {
        let index = match self.given_up {
            NONE if self.begun < self.capacity => self.begun,
            index => index,
        };
        let Some(place) = self.places.get_mut(usize::from(index)) else { return false };
        let Some(first) = self.chains.get_mut(chain(name)) else { return false };
        if index == self.given_up {
            self.given_up = place.next;
        } else {
            self.begun += 1;
        }
        *place = Place { name, bucket, owner, next: *first };
        *first = index;
        self.occupied += 1;
        self.counts.change(owner, |count| count + 1);
        true
    }

    /// Gives up the places of all buckets that are full again.
    fn sweep(&mut self, now: u64) {
        for first in &mut self.chains {
            let mut kept = NONE;
            let mut index = *first;
            while let Some(place) = self.places.get_mut(usize::from(index)) {
                let next = place.next;
                if place.bucket.is_full(now) {
                    place.next = self.given_up;
                    self.given_up = index;
                    self.occupied -= 1;
                    self.counts.change(place.owner, |count| count - 1);
                } else {
                    place.next = kept;
                    kept = index;
                }
                index = next;
            }
            *first = kept;
        }
    }

    fn index_of(&self, name: u128) -> Option<u16> {
        let mut index = *self.chains.get(chain(name))?;
        while let Some(place) = self.places.get(usize::from(index)) {
            if place.name == name {
                return Some(index);
            }
            index = place.next;
        }
        None
    }

    fn place_of(&self, name: u128) -> Option<&Place> {
        self.index_of(name).and_then(|index| self.places.get(usize::from(index)))
    }

    /// All places that are occupied.
    fn walk(&self) -> impl Iterator<Item = &Place> {
        self.chains.iter().flat_map(|first| {
            std::iter::successors(self.places.get(usize::from(*first)), |place| {
                self.places.get(usize::from(place.next))
            })
        })
    }
}

/// Chains are chosen by the low bits of a name, parts of the table by the high ones.
fn chain(name: u128) -> usize {
    name as usize % PLACES
}

fn counter(owner: Owner) -> usize {
    // The first bits tell crowds apart, and the last ones sites.
    (owner ^ owner >> SITE.count_ones()) as usize % COUNTERS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn second() -> Rate {
        Rate::new(1, 1_000_000, 1).unwrap()
    }

    /// A bucket that is full again a second from now.
    fn used(now: u64) -> Bucket {
        Bucket::full(second()).taken(second(), now, 1)
    }

    proptest! {
        #[test]
        fn it_is_a_map_that_forgets_full_ones(
            capacity in 1usize..40,
            acts in proptest::collection::vec((0u128..60, 1u64..6, 0u64..5, 0u64..400_000), 1..300),
        ) {
            let mut part = Part::new(capacity);
            let mut model: HashMap<u128, (Bucket, Owner)> = HashMap::new();
            let mut now = 0;
            for (name, owner, of, pause) in acts {
                let crowd = crowd_of(owner << 20);
                let owner = match of {
                    0 if owner == 1 => NOBODY,
                    0 | 1 => owner,
                    2 => crowd,
                    site => of_site(if owner > 3 { shared(crowd) } else { crowd }, site),
                };
                now += pause;
                // Some names share a chain.
                let name = if name % 3 == 0 { name } else { (name % 3) + ((name as usize * PLACES) as u128) };
                let live: Vec<_> = model.values().filter(|(bucket, _)| !bucket.is_full(now)).collect();
                prop_assert_eq!(part.in_use(now), live.len());
                let (told, owner) = (owner, owner & !SHARED);
                let held = |of: Owner| live.iter().filter(|(_, other)| *other == of || whole(*other) == of).count();
                let left = capacity - live.len();
                let there = model.get(&name).is_some_and(|(bucket, _)| !bucket.is_full(now));
                let has_place = part.find(name).is_some();
                let put = part.put(name, used(now), told, now);
                // The bucket has a place already, or the share allows another one.
                let crowded = live.iter().filter(|(_, owner)| is_crowd(*owner)).count();
                let is_free = !is_crowd(owner) || crowded < capacity.div_ceil(2);
                let (of_whole, most) = (held(whole(owner)), left / SHARE);
                let fits_in_crowd = owner == whole(owner)
                    || held(owner) == 0
                    || of_whole < most && held(owner) < (most - of_whole) / SHARE;
                let fits_in_part = of_whole == 0 || of_whole < most;
                let fits = left > 0 && is_free && (owner == NOBODY || fits_in_part && fits_in_crowd);
                prop_assert_eq!(put, has_place || fits);
                prop_assert!(put || !there);
                if put {
                    let owner = if has_place { model.get(&name).map_or(owner, |known| known.1) } else { owner };
                    model.insert(name, (used(now), owner));
                }
                for (name, (bucket, _)) in &model {
                    if !bucket.is_full(now) {
                        prop_assert_eq!(part.find(*name), Some(*bucket));
                    }
                }
            }
        }
    }

    /// Puts buckets of an owner until there is no room for another, and returns their number. Each has a new name.
    fn filler() -> impl FnMut(&mut Part, Owner) -> usize {
        let mut name = 0u128;
        move |part, owner| {
            let mut put = 0;
            loop {
                name += 1;
                if !part.put(name, used(0), owner, 0) {
                    return put;
                }
                put += 1;
            }
        }
    }

    #[test]
    fn one_owner_has_a_quarter_and_newcomers_get_in() {
        let mut part = Part::new(PLACES);
        let mut fill = filler();
        let alone = fill(&mut part, 1);
        assert!((PLACES / 4 - 1..=PLACES / 4 + 1).contains(&alone), "{alone}");
        for owner in 2..20 {
            assert!(fill(&mut part, owner) > 0, "{owner}");
            assert_eq!(fill(&mut part, 1), 0);
        }
    }

    #[test]
    fn crowds_leave_half_of_the_places_to_others() {
        let mut part = Part::new(PLACES);
        let mut fill = filler();
        let crowd = |owner: Owner| crowd_of(owner << 20);
        let alone = fill(&mut part, crowd(1));
        assert!((PLACES / 4 - 1..=PLACES / 4 + 1).contains(&alone), "{alone}");
        let crowds: usize = (2..1000).map(|owner| fill(&mut part, crowd(owner))).sum();
        assert_eq!(alone + crowds, PLACES / 2);
        // The owner of a crowd has a share besides.
        assert!(fill(&mut part, 1) >= PLACES / 8 - 1);
        assert!((2..10).all(|owner| fill(&mut part, owner) > 0));
    }

    #[test]
    fn a_site_leaves_room_in_its_crowd_to_others() {
        let mut part = Part::new(PLACES);
        let mut fill = filler();
        let crowd = crowd_of(1 << 40);
        let of_one = fill(&mut part, of_site(crowd, 1));
        assert!((PLACES / 16..=PLACES / 12).contains(&of_one), "{of_one}");
        assert_eq!(fill(&mut part, shared(of_site(crowd, 1))), 0);
        assert!((2..8).all(|site| fill(&mut part, of_site(crowd, site)) > 0));
        // Subjects have no site.
        assert!(fill(&mut part, crowd) > 0);
        // All sites together have what their crowd has.
        let crowded = part.walk().filter(|place| whole(place.owner) == crowd).count();
        assert!((PLACES / 4 - 1..=PLACES / 4 + 1).contains(&crowded), "{crowded}");
        assert!((8..1000).all(|site| fill(&mut part, of_site(crowd, site)) == 0));
        assert!(fill(&mut part, crowd_of(2 << 40)) > 0);
    }

    #[test]
    fn owners_are_told_apart() {
        let (one, other) = (owner(u128::MAX), owner(u128::MAX << 24));
        let crowds = [one, other].map(crowd_of);
        assert_ne!(crowds[0], crowds[1]);
        assert_eq!(of_site(crowds[0], NOBODY), crowds[0]);
        // A site's hash may end with zeros.
        assert_ne!(of_site(crowds[0], 1 << 20), crowds[0]);
        for site in [NOBODY, 1, 2, owner(u128::MAX)] {
            let owner = of_site(crowds[0], site);
            assert!(is_crowd(owner) && !is_shared(owner) && is_shared(shared(owner)));
            assert_eq!(whole(owner), crowds[0]);
        }
        assert!(is_shared(NOBODY) && !is_shared(one) && !is_shared(other));
    }

    #[test]
    fn a_full_part_refuses_until_a_bucket_is_full() {
        let mut part = Part::new(2);
        assert!(part.put(1, used(0), 1, 0) && part.put(2, used(500_000), 2, 500_000));
        assert!(!part.put(3, used(600_000), 3, 600_000));
        assert!(!part.put(3, used(600_000), NOBODY, 600_000));
        // A bucket that has a place still works.
        assert!(part.put(1, used(700_000), 1, 700_000));
        assert!(part.put(3, used(1_500_000), 3, 1_500_000));
        assert_eq!(part.find(2), None);
        assert!(part.find(1).is_some());
    }

    #[test]
    fn a_part_without_places_has_room_for_nothing() {
        let mut part = Part::new(0);
        assert!(!part.put(1, used(0), 1, 0));
        assert_eq!(part.in_use(0), 0);
    }
}
