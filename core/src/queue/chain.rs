//! The chain of a database's records, and the pool that its slots come from.

use crate::event::{self, MAX_LEN};

/// No slot.
const NONE: u32 = u32::MAX;

/// One in so many slots of a database's share may be taken by amendments. Everyone who may call
/// `log_request` can make amendments up.
const AMENDMENTS: u32 = 4;

/// A place for one record.
pub struct Slot {
    next: u32,
    length: u16,
    sequence: u64,
    bytes: [u8; MAX_LEN],
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
    /// How many of these are amendments.
    amendments: u32,
    /// The number of the newest record that was appended.
    pub sequence: u64,
    /// The number of the newest record that was taken out.
    pub done: u64,
}

/// The slot of a record, and its number. No number is given twice.
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
    pub(super) amendments: u32,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { next: NONE, length: 0, sequence: 0, bytes: [0; MAX_LEN] }
    }
}

impl Slot {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
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
        if chain.count >= share || is_amendment && chain.amendments >= share / AMENDMENTS {
            return false;
        }
        let is_fresh = self.free == NONE;
        let index = if is_fresh { self.fresh } else { self.free };
        let Some(slot) = slots.get_mut(index as usize) else { return false };
        let Some(bytes) = slot.bytes.get_mut(..record.len()) else { return false };
        bytes.copy_from_slice(record);
        if is_fresh {
            self.fresh += 1;
        } else {
            self.free = slot.next;
        }
        self.sequence += 1;
        slot.next = NONE;
        slot.length = record.len() as u16;
        slot.sequence = self.sequence;
        match slots.get_mut(chain.tail as usize) {
            Some(tail) => tail.next = index,
            None => chain.head = index,
        }
        chain.tail = index;
        chain.count += 1;
        chain.amendments += u32::from(is_amendment);
        chain.sequence = self.sequence;
        self.used += 1;
        true
    }

    /// Takes records out, if they are still the first of the chain.
    pub fn take_out(&mut self, slots: &mut [Slot], chain: &mut Chain, run: &Run) {
        if chain.first(slots) != Some(run.first.sequence) {
            return;
        }
        let Some(last) = slots.get_mut(run.last.slot as usize) else { return };
        chain.head = std::mem::replace(&mut last.next, self.free);
        self.free = run.first.slot;
        self.used -= run.count;
        chain.done = run.last.sequence;
        chain.count -= run.count;
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
            self.used -= count;
            chain.done = last.sequence;
            (chain.head, chain.tail, chain.count, chain.amendments) = (NONE, NONE, 0, 0);
        }
        count
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { head: NONE, tail: NONE, count: 0, amendments: 0, sequence: 0, done: 0 }
    }
}

impl Chain {
    /// The record that follows another one, or the first. `None` also if the other one is no
    /// longer in the chain.
    pub(super) fn after<'a>(
        &self,
        slots: &'a [Slot],
        position: Option<Position>,
    ) -> Option<(Position, &'a Slot)> {
        let slot = match position {
            None => self.head,
            // Records are taken out from the first one on, so no older record is in the chain.
            Some(position) if self.first(slots)? > position.sequence => return None,
            Some(position) => slots.get(position.slot as usize)?.next,
        };
        let found = slots.get(slot as usize)?;
        Some((Position { slot, sequence: found.sequence }, found))
    }

    /// The first record, or no bytes in an empty chain.
    pub fn head<'a>(&self, slots: &'a [Slot]) -> &'a [u8] {
        slots.get(self.head as usize).map(Slot::bytes).unwrap_or_default()
    }

    /// The number of the first record.
    fn first(&self, slots: &[Slot]) -> Option<u64> {
        slots.get(self.head as usize).map(|slot| slot.sequence)
    }
}
