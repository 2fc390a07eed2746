//! What a batch of requests adds to the totals of hours, by key and by endpoint.

use crate::event::{ACCEPTED, Event};
use crate::lists;
use crate::policy::weights::CALLS;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// In microseconds.
const HOUR: i64 = 60 * 60 * 1_000_000;
const DAY: i64 = 24 * HOUR;

/// A group of requests that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group<'a> {
    pub tenant_id: [u8; 16],
    pub of: Of<'a>,
    /// The beginning of the hour, in UTC.
    pub period: i64,
    pub environment: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of<'a> {
    Key { key_id: [u8; 16], status: i32, outcome: &'a [u8] },
    Endpoint { method: &'a [u8], endpoint: &'a [u8] },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: i64,
    pub refused: i64,
    /// The number of requests with a known latency.
    pub timed: i64,
    /// The sum of those latencies, in whole days and microseconds. Each counts as a day at most.
    pub latency_days: i32,
    pub latency: i64,
    /// The time of the last accepted request.
    pub used_at: Option<i64>,
    /// The time of the oldest request with a row.
    pub changed_from: Option<i64>,
    /// The sum of the credits.
    pub spend: i64,
    /// The number of requests without a row.
    pub gone: i64,
}

/// A unit of accepted requests. Calls are no such unit: requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit<'a> {
    pub tenant_id: [u8; 16],
    pub key_id: [u8; 16],
    /// The beginning of the hour, in UTC.
    pub period: i64,
    pub environment: &'a [u8],
    pub unit: &'a [u8],
}

/// A value of a tag that totals are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag<'a> {
    pub tenant_id: [u8; 16],
    /// The beginning of the day, in UTC.
    pub period: i64,
    pub tag: &'a [u8],
    pub environment: &'a [u8],
    pub value: &'a [u8],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagCounts {
    pub requests: i64,
    pub spend: i64,
}

/// Hashing takes much of the time to count a request. So it leaves out the environment and the outcome:
/// few groups differ in these alone. The ids are random. Both count, since persons have no key.
impl Hash for Group<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i64(self.period);
        match &self.of {
            Of::Key { key_id, status, .. } => {
                state
                    .write_u128(u128::from_ne_bytes(*key_id) ^ u128::from_ne_bytes(self.tenant_id));
                state.write_i32(*status);
            }
            Of::Endpoint { method, endpoint } => {
                state.write_u128(u128::from_ne_bytes(self.tenant_id));
                state.write(method);
                state.write(endpoint);
            }
        }
    }
}

impl Hash for Unit<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i64(self.period);
        state.write_u128(u128::from_ne_bytes(self.key_id) ^ u128::from_ne_bytes(self.tenant_id));
        state.write(self.unit);
    }
}

#[derive(Default)]
pub struct Tally<'a> {
    groups: HashMap<Group<'a>, Counts>,
    units: HashMap<Unit<'a>, i64>,
    tags: HashMap<Tag<'a>, TagCounts>,
}

impl<'a> Tally<'a> {
    /// Counts a request. `now` bounds the time of last use, because a clock may have been ahead.
    pub fn add(&mut self, event: &Event<'a>, now: i64) {
        self.count(event, 1, now);
    }

    /// Takes back a request that was counted before. The key was used all the same.
    pub fn take_back(&mut self, event: &Event<'a>) {
        self.count(event, -1, i64::MIN);
    }

    fn count(&mut self, event: &Event<'a>, sign: i64, now: i64) {
        let learned = &event.learned;
        let group = Group {
            tenant_id: event.tenant_id,
            of: Of::Key {
                key_id: event.key_id,
                status: learned.status.unwrap_or_default(),
                outcome: event.outcome,
            },
            period: event.at.saturating_sub(event.at.rem_euclid(HOUR)),
            environment: event.environment,
        };
        self.groups.entry(group).or_default().count(event, sign, now);
        let weights = learned.weights.filter(|_| event.outcome == ACCEPTED);
        for (unit, amount) in lists::units(weights.unwrap_or_default()) {
            if unit != CALLS {
                let of = Unit {
                    tenant_id: event.tenant_id,
                    key_id: event.key_id,
                    period: group.period,
                    environment: event.environment,
                    unit,
                };
                let sum = self.units.entry(of).or_default();
                *sum = sum.saturating_add(sign * i64::from(amount));
            }
        }
        if let (Some(names), Some(tags)) = (event.counted_tags, learned.tags) {
            self.count_tags(event, sign, names, tags);
        }
        let method = learned.method.unwrap_or_default();
        let endpoint = learned.endpoint.unwrap_or_default();
        if !method.is_empty() || !endpoint.is_empty() {
            let group = Group { of: Of::Endpoint { method, endpoint }, ..group };
            self.groups.entry(group).or_default().count(event, sign, now);
        }
    }

    fn count_tags(&mut self, event: &Event<'a>, sign: i64, names: &'a [u8], tags: &'a [u8]) {
        let spend = event.learned.spend.unwrap_or_default();
        for tag in names.split(|byte| *byte == b',') {
            if let Some(value) = lists::value(tags, tag) {
                let of = Tag {
                    tenant_id: event.tenant_id,
                    period: event.at.saturating_sub(event.at.rem_euclid(DAY)),
                    tag,
                    environment: event.environment,
                    value,
                };
                let counts = self.tags.entry(of).or_default();
                counts.requests += sign;
                counts.spend = counts.spend.saturating_add(sign * spend);
            }
        }
    }

    /// All values of tags, which are no longer in the tally.
    pub fn take_tags(&mut self) -> Vec<(Tag<'a>, TagCounts)> {
        let is_some = |(_, counts): &(_, TagCounts)| *counts != TagCounts::default();
        let mut tags: Vec<_> = self.tags.drain().filter(is_some).collect();
        tags.sort_unstable();
        tags
    }

    /// All units, which are no longer in the tally.
    pub fn take_units(&mut self) -> Vec<(Unit<'a>, i64)> {
        let mut units: Vec<_> = self.units.drain().filter(|(_, amount)| *amount != 0).collect();
        units.sort_unstable();
        units
    }

    /// All groups that change anything. Those of a tenant and of a key follow one another.
    pub fn into_sorted(self) -> Vec<(Group<'a>, Counts)> {
        let changes = |(_, counts): &(_, Counts)| *counts != Counts::default();
        let mut groups: Vec<_> = self.groups.into_iter().filter(changes).collect();
        groups.sort_unstable_by_key(|(group, _)| *group);
        groups
    }
}

impl Counts {
    fn count(&mut self, event: &Event, sign: i64, now: i64) {
        let is_let_in = event.outcome == ACCEPTED;
        self.requests += sign;
        let spend = event.learned.spend.unwrap_or_default();
        self.spend = self.spend.saturating_add(sign.saturating_mul(spend));
        self.refused += if is_let_in { 0 } else { sign };
        if let Some(latency) = event.learned.latency {
            self.timed += sign;
            if latency >= DAY {
                self.latency_days = self.latency_days.saturating_add(sign as i32);
            } else {
                self.latency = self.latency.saturating_add(sign * latency.max(0));
            }
        }
        if is_let_in && sign > 0 {
            self.used_at = self.used_at.max(Some(event.at.min(now)));
        }
        if event.is_counted_only {
            self.gone += sign;
        } else {
            let oldest = self.changed_from.map_or(event.at, |oldest| oldest.min(event.at));
            self.changed_from = Some(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Learned;
    use proptest::prelude::*;

    const OUTCOMES: [&[u8]; 3] = [b"ok", b"revoked", b"expired"];
    /// Nothing; 7 calls, 2 tokens and 1 image; 3 tokens.
    const WEIGHTS: [Option<&[u8]>; 3] = [
        None,
        Some(b"\x05calls\x04\0\x07\0\0\0\x06tokens\x04\0\x02\0\0\0\x05image\x04\0\x01\0\0\0"),
        Some(b"\x06tokens\x04\0\x03\0\0\0"),
    ];
    /// Nothing; a small model of team a; a large model.
    const TAGS: [Option<&[u8]>; 3] =
        [None, Some(b"\x05model\x05\0small\x04team\x01\0a"), Some(b"\x05model\x05\0large")];
    const TEXTS: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"/v1")];

    prop_compose! {
        fn event()(
            at in prop_oneof![-3 * HOUR..3 * HOUR, any::<i64>()], key in 0u8..3,
            status in proptest::option::of(200..203), outcome in 0usize..3,
            method in 0usize..3, endpoint in 0usize..3,
            latency in proptest::option::of(prop_oneof![-5..100i64, any::<i64>()]),
            spend in proptest::option::of(0..9i64), weights in 0usize..3, tags in 0usize..3, is_counted_only in any::<bool>(),
            counted in proptest::option::of(prop_oneof![Just(&b"model"[..]), Just(&b"other,team"[..])]),
        ) -> Event<'static> {
            Event {
                at,
                key_id: [key; 16],
                tenant_id: [key / 2; 16],
                environment: b"live",
                outcome: OUTCOMES[outcome],
                is_counted_only,
                learned: Learned {
                    spend, weights: WEIGHTS[weights], status, latency, method: TEXTS[method], endpoint: TEXTS[endpoint], tags: TAGS[tags],
                },
                counted_tags: counted,
                ..Event::default()
            }
        }
    }

    /// Whether an event belongs to a group, written in another way.
    fn is_of(group: &Group, event: &Event) -> bool {
        let learned = &event.learned;
        let hours_apart = i128::from(event.at) - i128::from(group.period);
        (0..i128::from(HOUR)).contains(&hours_apart)
            && group.tenant_id == event.tenant_id
            && match group.of {
                Of::Key { key_id, status, outcome } => {
                    (key_id, status, outcome)
                        == (event.key_id, learned.status.unwrap_or(0), event.outcome)
                }
                Of::Endpoint { method, endpoint } => {
                    (method, endpoint)
                        == (learned.method.unwrap_or(b""), learned.endpoint.unwrap_or(b""))
                }
            }
    }

    proptest! {
        #[test]
        fn each_request_is_counted_once_by_key_and_once_by_endpoint(
            events in proptest::collection::vec(event(), 0..60), now in -HOUR..HOUR,
        ) {
            // The first hour and day begin before the first moment that a number can hold.
            let events: Vec<_> = events.into_iter().filter(|e| e.at > i64::MIN + DAY).collect();
            let mut tally = Tally::default();
            events.iter().for_each(|event| tally.add(event, now));
            let units = tally.take_units();
            for (unit, of) in [(&b"tokens"[..], [0, 2, 3]), (b"image", [0, 1, 0]), (CALLS, [0; 3])] {
                let amount = |event: &Event| {
                    of[WEIGHTS.iter().position(|some| *some == event.learned.weights).unwrap()]
                };
                let accepted = events.iter().filter(|event| event.outcome == ACCEPTED);
                let sum = units.iter().filter(|(of, _)| of.unit == unit).map(|(_, n)| n).sum::<i64>();
                prop_assert_eq!(sum, accepted.map(amount).sum::<i64>());
            }
            let tags = tally.take_tags();
            for (tag, value, of) in [(&b"model"[..], &b"small"[..], 1), (b"model", b"large", 2), (b"team", b"a", 1)] {
                let is_counted = |event: &&Event| {
                    let names = event.counted_tags.unwrap_or_default();
                    names.split(|b| *b == b',').any(|name| name == tag) && event.learned.tags == TAGS[of]
                };
                let sums = tags.iter().filter(|(of, _)| (of.tag, of.value) == (tag, value));
                let sum = sums.fold((0, 0), |(n, spend), (_, c)| (n + c.requests, spend + c.spend));
                let own = || events.iter().filter(is_counted);
                let spend = own().filter_map(|event| event.learned.spend).sum::<i64>();
                prop_assert_eq!(sum, (own().count() as i64, spend));
            }
            for (tag, _) in &tags {
                prop_assert_eq!(tag.period.rem_euclid(DAY), 0);
                let ago = |event: &Event| i128::from(event.at) - i128::from(tag.period);
                let mut own = events.iter().filter(|event| event.tenant_id == tag.tenant_id);
                let is_of_the_day = own.any(|event| (0..i128::from(DAY)).contains(&ago(event)));
                prop_assert!(is_of_the_day);
            }
            let groups = tally.into_sorted();
            let of_keys = groups.iter().filter(|(group, _)| matches!(group.of, Of::Key { .. }));
            prop_assert_eq!(of_keys.map(|(_, c)| c.requests).sum::<i64>(), events.len() as i64);
            let named = |event: &&Event| {
                let told = [event.learned.method, event.learned.endpoint];
                told.iter().any(|text| text.is_some_and(|text| !text.is_empty()))
            };
            let of_endpoints = groups.iter().filter(|(g, _)| matches!(g.of, Of::Endpoint { .. }));
            prop_assert_eq!(
                of_endpoints.map(|(_, c)| c.requests).sum::<i64>(),
                events.iter().filter(named).count() as i64
            );
            for (group, counts) in &groups {
                let own: Vec<_> = events.iter().filter(|event| is_of(group, event)).collect();
                let let_in = || own.iter().filter(|event| event.outcome == b"ok");
                let latencies = || own.iter().filter_map(|event| event.learned.latency);
                let sum = i128::from(counts.latency_days) * i128::from(DAY) + i128::from(counts.latency);
                prop_assert_eq!(counts.requests, own.len() as i64);
                prop_assert_eq!(counts.refused, own.len() as i64 - let_in().count() as i64);
                let spend = own.iter().filter_map(|event| event.learned.spend).sum::<i64>();
                prop_assert_eq!(counts.spend, spend);
                prop_assert_eq!(counts.timed, latencies().count() as i64);
                prop_assert_eq!(sum, latencies().map(|l| i128::from(l.clamp(0, DAY))).sum::<i128>());
                prop_assert_eq!(counts.used_at, let_in().map(|event| event.at.min(now)).max());
                let with_rows = || own.iter().filter(|event| !event.is_counted_only);
                prop_assert_eq!(counts.gone, own.len() as i64 - with_rows().count() as i64);
                prop_assert_eq!(counts.changed_from, with_rows().map(|event| event.at).min());
            }
            prop_assert!(groups.is_sorted_by(|(one, _), (other, _)| one < other));
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_back_and_counted_anew_leaves_the_difference(
            events in proptest::collection::vec(event(), 1..20), n in any::<prop::sample::Index>(),
            status in 500..503, latency in proptest::option::of(0..2 * DAY),
        ) {
            let counted = |event: &Event<'static>| Event { is_counted_only: true, ..*event };
            let mut events: Vec<_> = events.iter().map(counted).collect();
            let before = *n.get(&events);
            let learned = Learned { status: Some(status), latency, weights: WEIGHTS[1], ..before.learned };
            let after = Event { learned, ..before };
            let mut changed = Tally::default();
            events.iter().for_each(|event| changed.add(event, 0));
            changed.take_back(&before);
            changed.add(&after, 0);
            if let Some(place) = events.iter_mut().find(|event| **event == before) {
                *place = after;
            }
            let mut anew = Tally::default();
            events.iter().for_each(|event| anew.add(event, 0));
            prop_assert_eq!(changed.take_units(), anew.take_units());
            // A group from which all was taken may keep its time of last use.
            let known = |tally: Tally<'static>| {
                let mut groups = tally.into_sorted();
                groups.iter_mut().for_each(|(_, counts)| counts.used_at = None);
                groups.retain(|(_, counts)| *counts != Counts::default());
                groups
            };
            prop_assert_eq!(known(changed), known(anew));
        }
    }

    #[test]
    fn the_ends_of_time_are_no_reason_to_fail() {
        let mut tally = Tally::default();
        for at in [i64::MIN, i64::MAX] {
            tally.add(&Event { at, ..Event::default() }, 0);
        }
        assert_eq!(tally.into_sorted().len(), 2);
    }
}
