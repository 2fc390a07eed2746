//! The newest requests that were counted and have no row, so that a later report about one can
//! still change the totals.
//!
//! Whole records are kept of those with weights or credits, which are settled later. Of the others
//! it is only known that they are counted: a report about one needs no search for a row.

use crate::event::{Event, Record};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

/// How long a request can be settled, in microseconds.
pub const KEPT: i64 = 15 * 60 * 1_000_000;
/// How many requests are known to be counted, at most.
const MARKS: usize = 1 << 16;

pub struct Counted {
    capacity: usize,
    records: HashMap<[u8; 16], Box<[u8]>>,
    /// Ids with their times, in the order in which they came. An id may be there twice.
    order: VecDeque<(i64, [u8; 16])>,
    marks: Box<[Cell<u32>]>,
}

impl Counted {
    pub fn new(capacity: usize) -> Counted {
        Counted {
            capacity,
            records: HashMap::new(),
            order: VecDeque::new(),
            marks: vec![Cell::new(0); MARKS].into(),
        }
    }

    /// How many records are kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the record of a request is kept.
    pub fn keeps(event: &Event) -> bool {
        event.learned.weights.is_some() || event.learned.spend.is_some()
    }

    /// Keeps the record of a request, in place of one of the same request.
    pub fn keep(&mut self, record: Box<[u8]>) {
        let Some(Record::Event(event)) = Record::decode(&record) else { return };
        let (at, request_id) = (event.at, event.request_id);
        if self.capacity == 0 {
            return;
        }
        if self.records.insert(request_id, record).is_none() {
            self.order.push_back((at, request_id));
        }
        if self.order.len() > self.capacity {
            self.forget_first();
        }
    }

    /// The record of a request, if it is kept.
    pub fn event(&self, request_id: &[u8; 16]) -> Option<Event<'_>> {
        match Record::decode(self.records.get(request_id)?)? {
            Record::Event(event) => Some(event),
            Record::Amendment { .. } => None,
        }
    }

    /// Notes whether a request is counted only. The newest one takes the place of another.
    pub fn mark(&self, request_id: &[u8; 16], is_counted_only: bool) {
        let (place, mark) = place_of(request_id);
        if let Some(place) = self.marks.get(place) {
            place.set(if is_counted_only { mark } else { 0 });
        }
    }

    /// Whether a request is known to be counted, and to have no row.
    pub fn is_marked(&self, request_id: &[u8; 16]) -> bool {
        let (place, mark) = place_of(request_id);
        self.marks.get(place).is_some_and(|place| place.get() == mark)
    }

    /// Forgets what is too old to be settled. True if nothing is left.
    pub fn forget_old(&mut self, now: i64) -> bool {
        while self.order.front().is_some_and(|(at, _)| now.saturating_sub(*at) > KEPT) {
            self.forget_first();
        }
        self.order.is_empty()
    }

    fn forget_first(&mut self) {
        if let Some((_, request_id)) = self.order.pop_front() {
            self.records.remove(&request_id);
        }
    }
}

/// The last bits of an id are random. 0 is the mark of no request.
fn place_of(request_id: &[u8; 16]) -> (usize, u32) {
    let id = u128::from_be_bytes(*request_id);
    (id as usize % MARKS, (id >> 16) as u32 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Learned;

    fn event(id: u8, at: i64, spend: Option<i64>) -> Event<'static> {
        let learned = Learned { spend, ..Learned::default() };
        Event { at, request_id: [id; 16], outcome: b"ok", learned, ..Event::default() }
    }

    fn kept(counted: &mut Counted, event: Event) {
        counted.keep(Record::Event(event).to_vec().into());
    }

    #[test]
    fn the_newest_are_kept_and_the_old_are_forgotten() {
        let mut counted = Counted::new(2);
        for id in 1..=3 {
            kept(&mut counted, event(id, i64::from(id), Some(7)));
        }
        assert_eq!(counted.event(&[1; 16]), None);
        assert_eq!(counted.event(&[2; 16]), Some(event(2, 2, Some(7))));
        assert!(!counted.forget_old(KEPT + 2));
        assert_eq!(counted.event(&[2; 16]), Some(event(2, 2, Some(7))));
        assert!(!counted.forget_old(KEPT + 3));
        assert_eq!(counted.event(&[2; 16]), None);
        assert!(counted.forget_old(KEPT + 4));
        kept(&mut Counted::new(0), event(1, 1, Some(7)));
    }

    #[test]
    fn a_later_record_takes_the_place_of_the_first() {
        let mut counted = Counted::new(2);
        kept(&mut counted, event(1, 1, Some(7)));
        kept(&mut counted, event(2, 2, Some(7)));
        kept(&mut counted, event(1, 1, Some(9)));
        assert_eq!(counted.event(&[1; 16]), Some(event(1, 1, Some(9))));
        assert_eq!(counted.event(&[2; 16]), Some(event(2, 2, Some(7))));
    }

    #[test]
    fn what_has_weights_or_credits_is_kept() {
        assert!(Counted::keeps(&event(1, 1, Some(0))));
        assert!(!Counted::keeps(&event(1, 1, None)));
        let learned = Learned { weights: Some(b""), ..Learned::default() };
        assert!(Counted::keeps(&Event { learned, ..event(1, 1, None) }));
    }

    #[test]
    fn marks_are_of_requests_that_came() {
        let counted = Counted::new(0);
        assert!(!counted.is_marked(&[0; 16]));
        counted.mark(&[5; 16], true);
        assert!(counted.is_marked(&[5; 16]) && !counted.is_marked(&[6; 16]));
        // It was stored after all, as a sample.
        counted.mark(&[5; 16], false);
        assert!(!counted.is_marked(&[5; 16]));
    }
}
