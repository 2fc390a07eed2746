//! The newest requests that were counted and have no row, so that a later report about one can
//! still change the totals.
//!
//! Whole records are kept of those with weights or credits, which are settled later. Of the others
//! it is only known that they are counted: a report about one needs no search for a row.

use crate::event::{Event, Record};
use crate::unsettled;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How long a request can be settled, in microseconds.
const KEPT: i64 = unsettled::KEPT as i64;
/// How many requests are known to be counted, at most.
const MARKS: usize = 1 << 16;

type Id = [u8; 16];

/// The record of a request, as it was counted.
pub struct Kept {
    record: Box<[u8]>,
    counted_tags: Option<Box<[u8]>>,
}

impl Kept {
    /// Without the address and the subject, which no total depends on.
    pub fn of(event: &Event) -> Kept {
        let record = Record::Event(Event { ip: None, subject: None, ..*event }).to_vec().into();
        Kept { record, counted_tags: event.counted_tags.map(Box::from) }
    }

    fn event(&self) -> Option<Event<'_>> {
        match Record::decode(&self.record)? {
            Record::Event(event) => {
                Some(Event { counted_tags: self.counted_tags.as_deref(), ..event })
            }
            Record::Amendment { .. } => None,
        }
    }
}

/// Of the tenants with the most requests, the one with the oldest request is the last.
type Rank = (usize, Reverse<i64>, Id);

pub struct Counted {
    capacity: usize,
    records: HashMap<Id, Kept>,
    /// The requests of each tenant with their times, in the order in which they came.
    tenants: HashMap<Id, VecDeque<(i64, Id)>>,
    ranks: BTreeSet<Rank>,
    /// No request is older.
    oldest: i64,
    marks: Box<[Cell<u32>]>,
}

impl Counted {
    pub fn new(capacity: usize) -> Counted {
        Counted {
            capacity,
            records: HashMap::new(),
            tenants: HashMap::new(),
            ranks: BTreeSet::new(),
            oldest: i64::MAX,
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

    /// Keeps a record, in place of one of the same request. If there are too many, the tenant with the most
    /// loses its oldest one: no tenant can crowd out another.
    pub fn keep(&mut self, kept: Kept) {
        let Some(Event { at, request_id, tenant_id, .. }) = kept.event() else { return };
        if self.capacity == 0 || self.records.insert(request_id, kept).is_some() {
            return;
        }
        self.oldest = self.oldest.min(at);
        self.change(tenant_id, |requests| requests.push_back((at, request_id)));
        if self.records.len() > self.capacity
            && let Some((_, _, tenant_id)) = self.ranks.last().copied()
        {
            self.forget_first(tenant_id);
        }
    }

    /// The record of a request, if it is kept.
    pub fn event(&self, request_id: &Id) -> Option<Event<'_>> {
        self.records.get(request_id)?.event()
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
        let is_old = |at: i64| now.saturating_sub(at) > KEPT;
        if is_old(self.oldest) {
            let old: Vec<Id> = self.ranks.iter().map(|(_, _, tenant_id)| *tenant_id).collect();
            for tenant_id in old {
                while self.first(&tenant_id).is_some_and(is_old) {
                    self.forget_first(tenant_id);
                }
            }
            let oldest = self.ranks.iter().map(|(_, Reverse(at), _)| *at).min();
            self.oldest = oldest.unwrap_or(i64::MAX);
        }
        self.records.is_empty()
    }

    fn first(&self, tenant_id: &Id) -> Option<i64> {
        self.tenants.get(tenant_id)?.front().map(|(at, _)| *at)
    }

    fn forget_first(&mut self, tenant_id: Id) {
        let mut first = None;
        self.change(tenant_id, |requests| first = requests.pop_front());
        if let Some((_, request_id)) = first {
            self.records.remove(&request_id);
        }
    }

    /// Changes a tenant's requests, and its rank.
    fn change(&mut self, tenant_id: Id, change: impl FnOnce(&mut VecDeque<(i64, Id)>)) {
        let rank = |requests: &VecDeque<(i64, Id)>| {
            requests.front().map(|(at, _)| (requests.len(), Reverse(*at), tenant_id))
        };
        let requests = self.tenants.entry(tenant_id).or_default();
        if let Some(before) = rank(requests) {
            self.ranks.remove(&before);
        }
        change(requests);
        match rank(requests) {
            Some(after) => _ = self.ranks.insert(after),
            None => _ = self.tenants.remove(&tenant_id),
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
        counted.keep(Kept::of(&event));
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
    fn a_tenant_with_few_requests_keeps_them() {
        let mut counted = Counted::new(8);
        let of = |tenant: u8, id: u8| Event {
            tenant_id: [tenant; 16],
            ..event(id, i64::from(id), Some(7))
        };
        (1..=2).for_each(|id| kept(&mut counted, of(1, id)));
        (11..=60).for_each(|id| kept(&mut counted, of(2 + id % 2, id)));
        let is_there = |counted: &Counted, id: u8| counted.event(&[id; 16]).is_some();
        assert!([1, 2].iter().all(|id| is_there(&counted, *id)));
        assert_eq!(
            (11..=60).filter(|id| is_there(&counted, *id)).collect::<Vec<_>>(),
            [55, 56, 57, 58, 59, 60]
        );
        // Among many with one each, the oldest goes.
        let mut counted = Counted::new(3);
        (1..=9).for_each(|id| kept(&mut counted, of(id, id)));
        assert_eq!((1..=9).filter(|id| is_there(&counted, *id)).collect::<Vec<_>>(), [7, 8, 9]);
        assert!(!counted.forget_old(KEPT + 9));
        assert!(!is_there(&counted, 8) && is_there(&counted, 9));
        assert!(counted.forget_old(KEPT + 10));
        assert!(counted.tenants.is_empty() && counted.ranks.is_empty());
    }

    #[test]
    fn a_record_has_the_tags_that_it_was_counted_by() {
        let mut counted = Counted::new(1);
        kept(&mut counted, Event { counted_tags: Some(b"model"), ..event(1, 1, Some(7)) });
        assert_eq!(counted.event(&[1; 16]).unwrap().counted_tags, Some(&b"model"[..]));
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
