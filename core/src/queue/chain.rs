//! The chain of a database's records, and the pool that its slots come from.

use crate::event::{self, MOST_PLAIN};

/// No slot.
const NONE: u32 = u32::MAX;

/// One in so many slots of a database's share may be taken by amendments. Everyone who may call
/// `log_request` can make amendments up.
const AMENDMENTS: u32 = 4;

/// A place for a record, or for a part of a long one. The parts follow one another.
pub struct Slot {
    next: u32,
    /// In the first slot of a record, its length and its number.
    length: u16,
    sequence: u64,
    bytes: [u8; MOST_PLAIN],
}

/// The slots that are in no chain.
pub struct Pool {
    /// The first of those that were used before. Each names the next one.
    free: u32,
    /// Slots from here on were never used.
    fresh: u32,
    /// How many slots are in chains.
    pub used: u32,
    /// The number of the newest record. All databases share one count, so that a copy of a
    /// database never meets a number that it has.
    sequence: u64,
}

/// The records of a database.
pub struct Chain {
    head: u32,
    tail: u32,
    pub count: u32,
    /// How many slots they take.
    slots: u32,
    /// How many of these have amendments.
    amendments: u32,
    /// The number of the newest record that was appended.
    pub sequence: u64,
    /// The number of the newest record that was taken out.
    pub done: u64,
}

/// The first slot of a record, and its number. No number is given twice.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub slot: u32,
    pub sequence: u64,
}

/// Records that follow one another in a chain.
pub struct Run {
    pub(super) first: Position,
    pub(super) last: Position,
    pub(super) count: u32,
    /// How many slots it has, and how many of them with amendments.
    pub(super) slots: u32,
    pub(super) amendments: u32,
}

/// How many slots a record of this length takes.
pub(super) fn slots_of(length: usize) -> u32 {
    length.div_ceil(MOST_PLAIN).max(1) as u32
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { next: NONE, length: 0, sequence: 0, bytes: [0; MOST_PLAIN] }
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { free: NONE, fresh: 0, used: 0, sequence: 0 }
    }
}

impl Pool {
    /// Appends a record. False if the chain has its share of slots already, or no slot is left.
    #[inline]
    pub fn append(
        &mut self,
        slots: &mut [Slot],
        chain: &mut Chain,
        record: &[u8],
        share: u32,
    ) -> bool {
        let is_amendment = event::is_amendment(record);
        let needed = slots_of(record.len());
        let amendments = if is_amendment { needed } else { 0 };
        if record.len() > event::MAX_LEN
            || chain.slots + needed > share
            || slots.len() - (self.used as usize).min(slots.len()) < needed as usize
            || is_amendment && chain.amendments + needed > share / AMENDMENTS
        {
            return false;
        }
        self.sequence += 1;
        let mut parts = record.chunks(MOST_PLAIN);
        for _ in 0..needed {
            let part = parts.next().unwrap_or_default();
            let is_fresh = self.free == NONE;
            let index = if is_fresh { self.fresh } else { self.free };
            let Some(slot) = slots.get_mut(index as usize) else { return false };
            if is_fresh {
                self.fresh += 1;
            } else {
                self.free = slot.next;
            }
            if let Some(bytes) = slot.bytes.get_mut(..part.len()) {
                bytes.copy_from_slice(part);
            }
            slot.next = NONE;
            slot.length = record.len() as u16;
            slot.sequence = self.sequence;
            match slots.get_mut(chain.tail as usize) {
                Some(tail) => tail.next = index,
                None => chain.head = index,
            }
            chain.tail = index;
        }
        chain.count += 1;
        chain.slots += needed;
        chain.amendments += amendments;
        chain.sequence = self.sequence;
        self.used += needed;
        true
    }

    /// Takes records out, if they are still the first of the chain.
    pub fn take_out(&mut self, slots: &mut [Slot], chain: &mut Chain, run: &Run) {
        if chain.first(slots) != Some(run.first.sequence) {
            return;
        }
        let end = Chain::end(slots, run.last.slot);
        let Some(last) = slots.get_mut(end as usize) else { return };
        chain.head = std::mem::replace(&mut last.next, self.free);
        self.free = run.first.slot;
        self.used -= run.slots;
        chain.done = run.last.sequence;
        chain.count -= run.count;
        chain.slots -= run.slots;
        chain.amendments = chain.amendments.saturating_sub(run.amendments);
        if chain.head == NONE {
            chain.tail = NONE;
        }
    }

    /// Takes all records out, and returns how many there were.
    pub fn empty(&mut self, slots: &mut [Slot], chain: &mut Chain) -> u32 {
        let count = chain.count;
        if let Some(last) = slots.get_mut(chain.tail as usize) {
            last.next = self.free;
            self.free = chain.head;
            self.used -= chain.slots;
            chain.done = last.sequence;
            (chain.head, chain.tail) = (NONE, NONE);
            (chain.count, chain.slots, chain.amendments) = (0, 0, 0);
        }
        count
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { head: NONE, tail: NONE, count: 0, slots: 0, amendments: 0, sequence: 0, done: 0 }
    }
}

impl Chain {
    /// The record that follows another one, or the first. `None` also if the other one is no
    /// longer in the chain.
    pub(super) fn after(&self, slots: &[Slot], position: Option<Position>) -> Option<Position> {
        let slot = match position {
            None => self.head,
            // Records are taken out from the first one on, so no older record is in the chain.
            Some(position) if self.first(slots)? > position.sequence => return None,
            Some(position) => slots.get(Chain::end(slots, position.slot) as usize)?.next,
        };
        let found = slots.get(slot as usize)?;
        Some(Position { slot, sequence: found.sequence })
    }

    /// The parts of the record that begins in a slot.
    pub(super) fn parts(slots: &[Slot], first: u32) -> impl Iterator<Item = &[u8]> {
        let mut left = slots.get(first as usize).map_or(0, |slot| usize::from(slot.length));
        let mut next = first;
        std::iter::from_fn(move || {
            let slot = slots.get(next as usize).filter(|_| left > 0)?;
            let part = slot.bytes.get(..left.min(MOST_PLAIN))?;
            left -= part.len();
            next = slot.next;
            Some(part)
        })
    }

    /// The last slot of the record that begins in a slot.
    fn end(slots: &[Slot], first: u32) -> u32 {
        let length = slots.get(first as usize).map_or(0, |slot| usize::from(slot.length));
        let next = |slot: u32, _| slots.get(slot as usize).map_or(NONE, |slot| slot.next);
        (1..slots_of(length)).fold(first, next)
    }

    /// Copies the first record, and returns its length; 0 for an empty chain.
    pub fn copy_head(&self, slots: &[Slot], into: &mut [u8; event::MAX_LEN]) -> usize {
        let mut used = 0;
        for part in Chain::parts(slots, self.head) {
            if let Some(place) = into.get_mut(used..used + part.len()) {
                place.copy_from_slice(part);
                used += part.len();
            }
        }
        used
    }

    /// The number of the first record.
    fn first(&self, slots: &[Slot]) -> Option<u64> {
        slots.get(self.head as usize).map(|slot| slot.sequence)
    }
}
