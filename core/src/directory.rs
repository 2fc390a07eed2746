//! A table in shared memory of what sessions found out about keys.
//!
//! An entry says in which form a key is stored, which never changes, and where its rows were
//! when they were last read, which may change. A place only says where to look: the decision
//! reads the row there. So an old entry costs a look in vain, and never a wrong answer.
//!
//! Entries are found by a keyed hash of 128 bits. Nobody learns its key, so nobody can make
//! another key that has the same hash. Readers and writers take no lock: see `SeqLock`.

use crate::key::digest::DIGEST_LEN;
use crate::seqlock::SeqLock;

/// How many slots may hold an entry: those of one set.
pub const WAYS: usize = 4;

/// The place of a row in its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub block: u32,
    /// From 1 up. 0 means that the place is not known.
    pub offset: u16,
}

impl Place {
    pub fn is_known(self) -> bool {
        self.offset != 0
    }

    fn packed(self) -> u64 {
        (u64::from(self.block) << 16) | u64::from(self.offset)
    }

    fn unpacked(word: u64) -> Place {
        Place { block: (word >> 16) as u32, offset: word as u16 }
    }
}

/// The rows that a decision about a key reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub key: Place,
    pub tenant: Place,
    pub member: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// The stored digest of the key, and the generation of its pepper.
    pub digest: [u8; DIGEST_LEN],
    pub generation: i16,
    pub places: Places,
}

const GENERATION_SHIFT: u32 = 48;
const GENERATION_MASK: u64 = 0x7fff;

/// Two words of the hash, four of the digest, and one for each place.
const WORDS: usize = 9;

fn words_of(tag: u128) -> [u64; 2] {
    [tag as u64, (tag >> 64) as u64]
}

impl KeyEntry {
    fn packed(&self, tag: u128) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..2].copy_from_slice(&words_of(tag));
        for (word, bytes) in words[2..6].iter_mut().zip(self.digest.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words[6] = self.places.key.packed()
            | ((u64::from(self.generation.unsigned_abs()) & GENERATION_MASK) << GENERATION_SHIFT);
        words[7] = self.places.tenant.packed();
        words[8] = self.places.member.packed();
        words
    }

    fn unpacked(words: &[u64; WORDS]) -> KeyEntry {
        let mut digest = [0; DIGEST_LEN];
        for (bytes, word) in digest.as_chunks_mut::<8>().0.iter_mut().zip(&words[2..6]) {
            *bytes = word.to_le_bytes();
        }
        KeyEntry {
            digest,
            generation: ((words[6] >> GENERATION_SHIFT) & GENERATION_MASK) as i16,
            places: Places {
                key: Place::unpacked(words[6]),
                tenant: Place::unpacked(words[7]),
                member: Place::unpacked(words[8]),
            },
        }
    }
}

/// A place for an entry. It is empty if all of it is zero.
pub type Slot = SeqLock<WORDS>;

/// Slots, as many as a multiple of `WAYS`.
#[derive(Clone, Copy)]
pub struct Directory<'a>(&'a [Slot]);

impl<'a> Directory<'a> {
    pub fn new(slots: &'a [Slot]) -> Directory<'a> {
        Directory(slots)
    }

    fn set(&self, tag: u128) -> &'a [Slot] {
        let sets = self.0.len() / WAYS;
        if sets == 0 {
            return &[];
        }
        // Scaled by the high half rather than divided by the number of sets.
        let set = ((u128::from((tag >> 64) as u64) * sets as u128) >> 64) as usize;
        self.0.get(set * WAYS..(set + 1) * WAYS).unwrap_or_default()
    }

    fn slot(&self, tag: u128) -> Option<&'a Slot> {
        self.set(tag).iter().find(|slot| slot.seems_to_start_with(&words_of(tag)))
    }

    #[inline]
    pub fn find(&self, tag: u128) -> Option<KeyEntry> {
        let words = self.slot(tag)?.read()?;
        words.starts_with(&words_of(tag)).then(|| KeyEntry::unpacked(&words))
    }

    /// Notes an entry. It replaces another one if its set is full. True if it took an unused slot.
    pub fn put(&self, tag: u128, entry: &KeyEntry) -> bool {
        let set = self.set(tag);
        let unused = || set.iter().find(|slot| slot.is_unused());
        let any = || set.get(tag as usize % WAYS);
        let slot = self.slot(tag).or_else(unused).or_else(any);
        slot.is_some_and(|slot| slot.write(&entry.packed(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    fn slots(count: usize) -> Vec<Slot> {
        (0..count).map(|_| Slot::default()).collect()
    }

    /// An entry all of whose parts follow from one number.
    fn entry(n: u64) -> KeyEntry {
        let place = |n: u64| Place { block: n as u32, offset: (n as u16).max(1) };
        let mut digest = [0; DIGEST_LEN];
        for bytes in digest.as_chunks_mut::<8>().0 {
            *bytes = n.to_le_bytes();
        }
        KeyEntry {
            digest,
            generation: (n % 32_768) as i16,
            places: Places { key: place(n), tenant: place(n + 1), member: place(n + 2) },
        }
    }

    #[test]
    fn nothing_is_found_in_no_room() {
        let directory = Directory::new(&[]);
        assert!(!directory.put(7, &entry(7)));
        assert_eq!(directory.find(7), None);
    }

    #[test]
    fn an_unused_slot_holds_nothing_of_the_hash_zero() {
        let slots = slots(WAYS);
        assert_eq!(Directory::new(&slots).find(0), None);
    }

    #[test]
    fn the_newest_of_a_full_set_are_found() {
        let slots = slots(WAYS);
        let directory = Directory::new(&slots);
        let mut used = 0;
        for n in 0..100 {
            used += usize::from(directory.put(n, &entry(n as u64)));
            assert_eq!(directory.find(n), Some(entry(n as u64)));
        }
        assert_eq!((0..100).filter(|n| directory.find(*n).is_some()).count(), WAYS);
        assert_eq!(used, WAYS);
    }

    proptest! {
        #[test]
        fn what_was_put_is_found(
            tags in proptest::collection::vec(any::<u128>(), 1..WAYS), n in any::<u32>()
        ) {
            let slots = slots(64 * WAYS);
            let directory = Directory::new(&slots);
            for (more, tag) in tags.iter().enumerate() {
                directory.put(*tag, &entry(u64::from(n) + more as u64));
            }
            for (more, tag) in tags.iter().enumerate() {
                let last = tags.iter().rposition(|other| other == tag).unwrap_or(more);
                prop_assert_eq!(directory.find(*tag), Some(entry(u64::from(n) + last as u64)));
            }
            prop_assert_eq!(directory.find(!tags[0]).filter(|_| !tags.contains(&!tags[0])), None);
        }

        #[test]
        fn every_place_survives(block in any::<u32>(), offset in any::<u16>()) {
            let place = Place { block, offset };
            prop_assert_eq!(Place::unpacked(place.packed()), place);
        }
    }

    /// Entries that are written over one another are read whole or not at all.
    #[test]
    fn no_entry_is_read_half_written() {
        const TAGS: u128 = 2 * WAYS as u128;
        let slots = slots(WAYS);
        let directory = Directory::new(&slots);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let is_over = &is_over;
                scope.spawn(move || {
                    for round in 0..if cfg!(miri) { 50 } else { 200_000 } {
                        let tag = u128::from(round * 2 + writer) % TAGS;
                        directory.put(tag, &entry(tag as u64 + TAGS as u64 * round));
                    }
                    is_over.store(true, Relaxed);
                });
            }
            while !is_over.load(Relaxed) {
                for tag in 0..TAGS {
                    if let Some(found) = directory.find(tag) {
                        let n = u64::from_le_bytes(found.digest[..8].try_into().unwrap());
                        assert_eq!(found, entry(n));
                        assert_eq!(u128::from(n) % TAGS, tag);
                    }
                }
            }
        });
    }
}
