//! Records that were read from the queue and are still in it. A batch holds copies: a slot may be
//! used again as soon as its record is taken out.

use super::chain::{Chain, Position, Run, Slot, slots_of};
use crate::event::{self, MAX_LEN};

/// How many records are read while the lock is held. Sessions wait for it in the meantime.
const AT_ONCE: usize = 32;

/// The records to read.
#[derive(Clone, Copy, Default)]
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

/// `Batch::new` begins one, and calls of `read` fill it.
#[derive(Default)]
pub struct Batch {
    wanted: Wanted,
    records: Vec<Entry>,
    bytes: Vec<u8>,
    /// The last record that was looked at.
    position: Option<Position>,
}

struct Entry {
    position: Position,
    /// Where it ends in `bytes`.
    end: usize,
}

impl Batch {
    /// A batch for the wanted records among those that are in the chain now.
    pub fn new(chain: &Chain, wanted: Wanted) -> Batch {
        let up_to = wanted.up_to.min(chain.sequence);
        Batch { wanted: Wanted { up_to, ..wanted }, ..Batch::default() }
    }

    /// Makes room for what one call of `read` adds, so that it needs no memory under the lock.
    pub fn make_room(&mut self) {
        self.records.reserve(AT_ONCE);
        self.bytes.reserve(AT_ONCE * MAX_LEN);
    }

    /// Reads some more records, under the lock. False if there are no more to read.
    pub fn read(&mut self, slots: &[Slot], chain: &Chain) -> bool {
        for _ in 0..AT_ONCE {
            let Some(position) = chain.after(slots, self.position) else { return false };
            if position.sequence > self.wanted.up_to
                || self.records.len() >= self.wanted.most as usize
            {
                return false;
            }
            self.position = Some(position);
            if position.sequence > self.wanted.after {
                for part in Chain::parts(slots, position.slot) {
                    self.bytes.extend_from_slice(part);
                }
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

    /// The number of the newest record.
    pub fn last(&self) -> Option<u64> {
        self.records.last().map(|entry| entry.position.sequence)
    }

    /// How many records are amendments.
    pub fn amendments(&self) -> usize {
        self.iter().filter(|record| event::is_amendment(record.bytes)).count()
    }

    /// The part of the chain that the batch holds. `None` if it is empty.
    pub fn run(&self) -> Option<Run> {
        let slots = |record: Waiting| slots_of(record.bytes.len());
        let amendments = self.iter().filter(|record| event::is_amendment(record.bytes));
        Some(Run {
            first: self.records.first()?.position,
            last: self.records.last()?.position,
            count: self.records.len() as u32,
            slots: self.iter().map(slots).sum(),
            amendments: amendments.map(slots).sum(),
        })
    }
}
