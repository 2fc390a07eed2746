//! The records of a database as a chain of slots, in the order in which they came. Called under the
//! queue's lock.

use keysmith_core::event::{self, MAX_LEN};
use pg::shmem::shareable;

/// No slot.
const NONE: u32 = u32::MAX;

/// One in so many slots of a database's share may be taken by amendments, which anyone who
/// may call `log_request` can make up.
const AMENDMENTS: u32 = 4;

shareable! {
    pub struct Slot {
        next: u32,
        length: u16,
        sequence: u64,
        bytes: [u8; MAX_LEN],
    }

    /// The slots that are in no chain.
    pub struct Pool {
        free: u32,
        /// Slots from here on have never been used.
        fresh: u32,
        /// How many are in chains.
        pub used: u32,
        /// The number of the newest record. One count serves all databases, so that a copy
        /// of a database never meets a number that it has.
        sequence: u64,
    }

    pub struct Chain {
        head: u32,
        tail: u32,
        pub count: u32,
        /// How many of these are amendments.
        amendments: u32,
        /// Numbers of the newest record taken in, and of the newest that was dealt with.
        pub sequence: u64,
        pub done: u64,
    }
}

/// A record by its slot. Numbers are not given twice, so both together are of one record alone.
#[derive(Clone, Copy)]
pub struct Position {
    pub slot: u32,
    pub sequence: u64,
}

/// Records that come one after the other.
pub struct Run {
    pub first: Position,
    pub last: Position,
    pub count: u32,
    pub amendments: u32,
}

impl Slot {
    pub fn new() -> Slot {
        Slot { next: NONE, length: 0, sequence: 0, bytes: [0; MAX_LEN] }
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl Pool {
    pub fn new() -> Pool {
        Pool { free: NONE, fresh: 0, used: 0, sequence: 0 }
    }

    /// Takes a record in, if the chain has fewer than its share and a slot is left.
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

    /// Takes records out, if they are the first of the chain still.
    pub fn take_out(&mut self, slots: &mut [Slot], chain: &mut Chain, run: &Run) {
        let is_first = chain.head == run.first.slot && chain.has(slots, run.first);
        if !is_first || chain.count < run.count || !chain.has(slots, run.last) {
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

    /// Takes all records out, and tells how many.
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

impl Chain {
    pub fn new() -> Chain {
        Chain { head: NONE, tail: NONE, count: 0, amendments: 0, sequence: 0, done: 0 }
    }

    /// The record that follows another, or the first. `None` also if that one is there no more.
    pub fn after<'a>(
        &self,
        slots: &'a [Slot],
        position: Option<Position>,
    ) -> Option<(Position, &'a Slot)> {
        let slot = match position {
            None => self.head,
            Some(position) if self.has(slots, position) => slots.get(position.slot as usize)?.next,
            Some(_) => return None,
        };
        let found = slots.get(slot as usize)?;
        Some((Position { slot, sequence: found.sequence }, found))
    }

    /// Whether a record is in the chain. One that was taken out is older than all that are.
    fn has(&self, slots: &[Slot], position: Position) -> bool {
        let first = slots.get(self.head as usize).map(|slot| slot.sequence);
        let found = slots.get(position.slot as usize).map(|slot| slot.sequence);
        found == Some(position.sequence)
            && first.is_some_and(|first| (first..=self.sequence).contains(&position.sequence))
    }
}
