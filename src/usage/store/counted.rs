//! Requests of keyspaces without rows: they are counted. A bounded number of them are samples, which
//! leave rows all the same.

use crate::usage::queue::Queue;
use crate::usage::session::worker_slot;
use keysmith_core::counted::{Counted, Kept};
use keysmith_core::event::{Event, Learned};
use keysmith_core::samples::Samples;
use keysmith_core::tally::Tally;
use pg::clock::{monotonic, now};
use std::collections::{HashMap, HashSet};

const MINUTE: i64 = 60_000_000;

/// Counts the requests that leave no row, and takes them out. `kept` gets the records of those that may
/// be settled later.
pub fn take_out<'a>(
    events: &mut Vec<(i64, Event<'a>)>,
    tally: &mut Tally<'a>,
    known: Option<&Counted>,
    kept: &mut Vec<Kept>,
) {
    if !events.iter().any(|(_, event)| event.is_counted_only) {
        return;
    }
    let (now, mut samples) = (now(), Sampling::begin());
    for (_, event) in events.iter_mut().filter(|(_, event)| event.is_counted_only) {
        event.is_counted_only = !samples.take(event);
        if let Some(known) = known {
            known.mark(&event.request_id, event.is_counted_only);
        }
    }
    if known.is_some_and(|known| known.capacity() > 0) {
        let counted = events.iter().map(|(_, event)| event).filter(|event| event.is_counted_only);
        kept.extend(counted.filter(|event| Counted::keeps(event)).map(Kept::of));
    }
    events.retain(|(_, event)| {
        if event.is_counted_only {
            tally.add(event, now);
        }
        !event.is_counted_only
    });
}

/// The samples of this minute, of all processes. They are asked only about what looks like a sample in
/// a copy. Without shared memory there are no samples: their number could not be bounded.
struct Sampling {
    place: Option<(&'static Queue, usize)>,
    minute: i64,
    copy: Samples,
}

impl Sampling {
    fn begin() -> Sampling {
        let place = worker_slot::find_place();
        let copy = place.and_then(|(queue, n)| queue.with(n, |database| database.samples));
        Sampling { place, minute: monotonic() / MINUTE, copy: copy.unwrap_or_default() }
    }

    fn take(&mut self, event: &Event) -> bool {
        let minute = self.minute;
        let take = |samples: &mut Samples| samples.take(minute, &event.tenant_id, event.outcome);
        let Some((queue, n)) = self.place else { return false };
        take(&mut self.copy)
            && queue.with(n, |database| take(&mut database.samples)).unwrap_or_default()
    }
}

/// A report about a request that was counted before.
pub struct Change<'a> {
    before: Event<'a>,
    told: Learned<'a>,
    merged_weights: Option<Vec<u8>>,
}

/// Takes the reports about requests without rows out of `told`. Returns what they change, and the ids
/// of requests whose records are not kept.
pub fn changes<'a>(
    known: &'a Counted,
    told: &mut HashMap<[u8; 16], Learned<'a>>,
) -> (Vec<Change<'a>>, HashSet<[u8; 16]>) {
    let (mut changes, mut given_up) = (Vec::new(), HashSet::new());
    told.retain(|request_id, told| {
        if let Some(before) = known.event(request_id) {
            let merged_weights = before.learned.merged_weights(told);
            changes.push(Change { before, told: *told, merged_weights });
        } else if known.is_marked(request_id) {
            given_up.insert(*request_id);
            // Its charge says what it cost.
            return told.spend.is_some();
        } else {
            return true;
        }
        false
    });
    (changes, given_up)
}

/// The keyspaces of requests whose tags change.
pub fn with_new_tags<'a>(changes: &'a [Change<'a>]) -> impl Iterator<Item = &'a [u8]> {
    changes.iter().filter(|change| change.told.tags.is_some()).map(|change| change.before.keyspace)
}

/// The requests as the reports change them, each with the place of its change. New tags are counted as the
/// keyspaces declare them now.
pub fn anew<'a>(
    changes: &'a [Change<'a>],
    totalled: &'a HashMap<&[u8], Vec<u8>>,
) -> Vec<(i64, Event<'a>)> {
    let anew = |(n, change): (usize, &'a Change<'a>)| {
        let mut learned = change.before.learned.amended(change.told);
        learned.weights = change.merged_weights.as_deref().or(learned.weights);
        let counted_tags = match change.told.tags {
            Some(_) => totalled.get(change.before.keyspace).map(Vec::as_slice),
            None => change.before.counted_tags,
        };
        (n as i64, Event { learned, counted_tags, ..change.before })
    };
    changes.iter().enumerate().map(anew).collect()
}

/// Takes back how requests were counted, and counts them as they are now.
pub fn count_anew<'a>(
    changes: &'a [Change<'a>],
    anew: &[(i64, Event<'a>)],
    tally: &mut Tally<'a>,
    kept: &mut Vec<Kept>,
) {
    let now = now();
    for (n, event) in anew {
        if let Some(change) = usize::try_from(*n).ok().and_then(|n| changes.get(n)) {
            // An erased tenant has no totals by tags any more.
            let counted_tags = change.before.counted_tags.filter(|_| event.learned.tags.is_some());
            tally.take_back(&Event { counted_tags, ..change.before });
            tally.add(event, now);
            kept.push(Kept::of(event));
        }
    }
}
