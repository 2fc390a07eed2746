//! Records that were read from the queue, and are in it still. They are a copy: a slot may be
//! used again as soon as its record is taken out.

use crate::usage::queue::chain::{Chain, Position, Run, Slot};
use keysmith_core::event::{self, MAX_LEN};

/// So many slots are looked at while the lock is held: others decide meanwhile.
const AT_ONCE: usize = 32;

#[derive(Default)]
pub struct Batch {
    records: Vec<Entry>,
    bytes: Vec<u8>,
    /// The last that was looked at.
    position: Option<Position>,
}

struct Entry {
    position: Position,
    /// Where it ends in `bytes`.
    end: usize,
}

/// Which records are read.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Their numbers.
    pub after: u64,
    pub up_to: u64,
    pub most: u32,
}

/// A record, and its number.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    pub sequence: u64,
    pub bytes: &'a [u8],
}

impl Batch {
    /// Makes room for what `read` takes: no memory is asked for under the lock.
    pub fn make_room(&mut self) {
        self.records.reserve(AT_ONCE);
        self.bytes.reserve(AT_ONCE * MAX_LEN);
    }

    /// Reads some more, under the lock. False if that was all.
    pub fn read(&mut self, slots: &[Slot], chain: &Chain, wanted: Wanted) -> bool {
        for _ in 0..AT_ONCE {
            let Some((position, slot)) = chain.after(slots, self.position) else { return false };
            if position.sequence > wanted.up_to || self.records.len() >= wanted.most as usize {
                return false;
            }
            self.position = Some(position);
            if position.sequence > wanted.after {
                self.bytes.extend_from_slice(slot.bytes());
                self.records.push(Entry { position, end: self.bytes.len() });
            }
        }
        true
    }

    pub fn iter(&self) -> impl Iterator<Item = Waiting<'_>> {
        let mut begin = 0;
        self.records.iter().map(move |Entry { position, end }| {
            let bytes = self.bytes.get(begin..*end).unwrap_or_default();
            begin = *end;
            Waiting { sequence: position.sequence, bytes }
        })
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The number of the newest.
    pub fn last(&self) -> Option<u64> {
        self.records.last().map(|entry| entry.position.sequence)
    }

    /// How many are amendments.
    pub fn amendments(&self) -> usize {
        self.iter().filter(|record| event::is_amendment(record.bytes)).count()
    }

    /// Where they are. `None` if there are none.
    pub fn run(&self) -> Option<Run> {
        Some(Run {
            first: self.records.first()?.position,
            last: self.records.last()?.position,
            count: self.records.len() as u32,
            amendments: self.amendments() as u32,
        })
    }
}
