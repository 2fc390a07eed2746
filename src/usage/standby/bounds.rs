//! Checks what a standby's role hands over. The caller may not be a standby's worker at all. So a
//! record must be of an existing key or of a person of an existing tenant, of a time that a standby can have, and within the bounds of
//! what servers record. A record of credits must be of a charge that is known here: standbys don't spend, but a
//! server that was the primary may still have such records. Other records are quarantined.

use crate::usage::settings;
use crate::usage::standby::load::Incarnation;
use keysmith_core::event::{self, Event, Learned, Record};
use keysmith_core::lists;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::policy::weights::MAX_WEIGHT;
use keysmith_core::request_id;
use keysmith_core::unknown_tally::Count;
use pg::clock::{DAY, now};
use pg::error::{Error, Result};
use pg::spi::{self, Param};
use std::collections::{HashMap, HashSet};

/// By how much a standby's clock may be ahead, and how long it may have kept records.
const AHEAD: i64 = DAY;
const KEPT: i64 = 90 * DAY;
const LONGEST_LATENCY: i64 = 30 * DAY;
/// The time of a request, and that in its id.
const MOST_APART: u64 = 60_000_000;

/// Of one call: as many as a batch can have, and as many as a server tells apart.
pub const MOST_RECORDS: usize = 100_000;
pub const MOST_COUNTS: usize = 64;
pub const MOST_SAMPLES: usize = 16;
/// More than any server's memory has room for, and more than an incarnation answers.
const MOST_WAITING: i64 = 10_000_000;
const MOST_COUNTED: i64 = 1 << 50;

/// Records, each with its number. Those that are not taken have a reason.
pub struct Sorted<'a> {
    pub fit: Vec<(i64, Record<'a>)>,
    pub unfit: Vec<(i64, Record<'a>, &'static str)>,
}

/// What the tables know of the keys and tenants of some records.
struct Facts {
    keys: HashMap<[u8; 16], KeyFacts>,
    /// The keyspaces of the tenants of persons.
    tenants: HashMap<[u8; 16], Vec<u8>>,
    charges: HashMap<[u8; 16], Spent>,
}

/// What a request spent.
struct Spent {
    key_id: [u8; 16],
    /// As it was settled, if it was.
    spend: i64,
    /// Whether it was counted without a row. Its server knows whether its totals have what it cost.
    is_counted: bool,
}

/// A key's tenant, keyspace and environment. Its records must have the same.
struct KeyFacts {
    tenant_id: [u8; 16],
    keyspace: Vec<u8>,
    environment: Vec<u8>,
    /// Whether requests of the keyspace leave no rows.
    leaves_no_rows: bool,
}

pub fn check(incarnation: &Incarnation, unknown_mark: i64) -> Result<()> {
    if !(1..now() + AHEAD).contains(&incarnation.id) {
        return Err(Error::argument("incarnation", "must be that of a standby"));
    }
    for (name, value, most) in [
        ("most_waiting", incarnation.most_waiting, MOST_WAITING),
        ("dropped", incarnation.dropped, MOST_COUNTED),
        ("unknown_mark", unknown_mark, MOST_COUNTED),
    ] {
        if value > most {
            return Err(Error::argument(name, format!("must be at most {most}")));
        }
    }
    Ok(())
}

/// Called connected to SPI.
pub fn sort(records: Vec<(i64, Record<'_>)>) -> Result<Sorted<'_>> {
    let facts = facts(&records)?;
    let now = now();
    let kept_from = settings::kept_from().max(now - KEPT);
    let mut sorted = Sorted { fit: Vec::with_capacity(records.len()), unfit: Vec::new() };
    for (number, record) in records {
        let (record, fault) = match record {
            Record::Event(mut event) => {
                let fault = fault_of_event(&event, &facts, kept_from..now + AHEAD);
                let by_key = |charge: &Spent| charge.key_id == event.key_id;
                let spend = facts.spend(&event.request_id, &event.learned, by_key);
                let fault = fault.or(spend.err());
                event.learned.spend = spend.unwrap_or_default();
                // A clock that is ahead costs no record.
                let at = event.at.min(now);
                let is_counted_only = facts.is_counted_only(&event);
                let outcome = known_reason(event.outcome);
                (Record::Event(Event { at, outcome, is_counted_only, ..event }), fault)
            }
            Record::Amendment { request_id, at, mut told } => {
                let moment = request_id::moment(&request_id);
                let is_possible =
                    moment.is_some_and(|moment| (now - KEPT..now + AHEAD).contains(&moment));
                let fault = (!is_possible).then_some("no request can have that name");
                let spend = facts.spend(&request_id, &told, |charge| !charge.is_counted);
                let fault = fault.or(fault_of(&told)).or(spend.err());
                told.spend = spend.unwrap_or_default();
                (Record::Amendment { request_id, at, told }, fault)
            }
        };
        match fault {
            None => sorted.fit.push((number, record)),
            Some(fault) => sorted.unfit.push((number, record, fault)),
        }
    }
    Ok(sorted)
}

impl Facts {
    /// Whether an event leaves no row. Nothing else tells that a request is counted already, so one that
    /// was charged leaves a row, and so does one whose keyspace has rows now.
    fn is_counted_only(&self, event: &Event) -> bool {
        let is_of_such = || self.keys.get(&event.key_id).is_some_and(|key| key.leaves_no_rows);
        event.is_counted_only && event.learned.spend.is_none() && is_of_such()
    }

    /// The credits that a request spent, by its charge, if it is said to have spent any.
    fn spend(
        &self,
        request_id: &[u8; 16],
        told: &Learned,
        fits: impl Fn(&Spent) -> bool,
    ) -> std::result::Result<Option<i64>, &'static str> {
        if told.spend.is_none() {
            return Ok(None);
        }
        let charge = self.charges.get(request_id).filter(|charge| fits(charge));
        charge.map(|charge| Some(charge.spend)).ok_or("nothing is known of what it spent")
    }
}

fn fault_of_event(
    event: &Event,
    facts: &Facts,
    times: std::ops::Range<i64>,
) -> Option<&'static str> {
    let is_theirs = match event.person {
        None => facts.keys.get(&event.key_id).is_some_and(|key| {
            key.tenant_id == event.tenant_id
                && key.keyspace == event.keyspace
                && key.environment == event.environment
        }),
        Some(_) => facts.tenants.get(&event.tenant_id).is_some_and(|of| of == event.keyspace),
    };
    // Rows of one request are found by the day of its id.
    let moment = request_id::moment(&event.request_id);
    let is_of_then = moment.is_none_or(|moment| moment.abs_diff(event.at) < MOST_APART);
    if !times.contains(&event.at) || event.person.is_none() && !is_of_then {
        Some("the time is out of bounds")
    } else if !is_theirs {
        Some(if event.person.is_some() {
            "there is no such tenant"
        } else {
            "there is no such key"
        })
    } else if !is_name(event.outcome) || event.learned.status.is_none() {
        Some("the outcome is out of bounds")
    } else {
        fault_of(&event.learned)
    }
}

fn fault_of(learned: &Learned) -> Option<&'static str> {
    let length = |text: Option<&[u8]>| text.map_or(0, <[u8]>::len);
    let is_within = learned.status.is_none_or(|status| (100..=999).contains(&status))
        && learned.latency.is_none_or(|latency| (0..=LONGEST_LATENCY).contains(&latency))
        && length(learned.method) <= event::MOST_METHOD
        && length(learned.endpoint) <= event::MOST_ENDPOINT
        && lists::units(learned.weights.unwrap_or_default())
            .all(|(_, weight)| weight <= MAX_WEIGHT);
    (!is_within).then_some("the status, latency, method, endpoint or weights are out of bounds")
}

/// Whether this can be a reason.
fn is_name(outcome: &[u8]) -> bool {
    (1..=event::MOST_OUTCOME).contains(&outcome.len())
        && outcome.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
}

/// A standby may be of a newer version, with other reasons. Totals have a row for each, so those that a role
/// makes up are one.
fn known_reason(name: &[u8]) -> &[u8] {
    let is_known = Reason::ALL.iter().any(|reason| reason.name().as_bytes() == name);
    if is_known { name } else { b"other" }
}

fn facts(records: &[(i64, Record)]) -> Result<Facts> {
    let (mut keys, mut tenants) = (HashSet::new(), HashSet::new());
    let mut spenders = Vec::new();
    for (_, record) in records {
        let (request_id, learned) = match record {
            Record::Event(event) => (event.request_id, &event.learned),
            Record::Amendment { request_id, told, .. } => (*request_id, told),
        };
        spenders.extend(learned.spend.map(|_| request_id));
        match record {
            Record::Event(event) if event.person.is_some() => tenants.insert(event.tenant_id),
            Record::Event(event) => keys.insert(event.key_id),
            Record::Amendment { .. } => false,
        };
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let tenants: Vec<_> = tenants.into_iter().collect();
    let fact = |row: spi::ResultRow| {
        let facts = KeyFacts {
            tenant_id: row.uuid(2)?,
            // Not converted: texts of records are in the database's encoding.
            keyspace: row.bytes(3)?,
            environment: row.bytes(4)?,
            leaves_no_rows: row.boolean(5),
        };
        Some((row.uuid(1)?, facts))
    };
    let keys = spi::all(
        "SELECT k.key_id, k.tenant_id, k.keyspace, k.environment, s.usage_log = 'totals'
         FROM keysmith_private.key k JOIN keysmith_private.keyspace s USING (keyspace)
         WHERE k.key_id = ANY ($1)",
        &[Param::uuids(Some(&keys))],
        fact,
    )?;
    let tenants = spi::all(
        "SELECT tenant_id, keyspace FROM keysmith_private.tenant WHERE tenant_id = ANY ($1)",
        &[Param::uuids(Some(&tenants))],
        |row| Some((row.uuid(1)?, row.bytes(2)?)),
    )?;
    let charges = match spenders.as_slice() {
        [] => Vec::new(),
        spenders => spi::all(
            "SELECT request_id, key_id, least(coalesce(settled, spend), $2), usage_log = 'totals'
             FROM keysmith_private.charge WHERE request_id = ANY ($1)",
            &[Param::uuids(Some(spenders)), Param::bigint(Some(event::MOST_SPEND))],
            |row| {
                let charge = Spent {
                    key_id: row.uuid(2)?,
                    spend: row.bigint(3)?,
                    is_counted: row.boolean(4),
                };
                Some((row.uuid(1)?, charge))
            },
        )?,
    };
    Ok(Facts {
        keys: keys.into_iter().collect(),
        tenants: tenants.into_iter().collect(),
        charges: charges.into_iter().collect(),
    })
}

/// Counts and samples of requests without a known key, as this server would have them: in existing
/// keyspaces, for existing reasons, and no more than came.
pub fn unknown<'a>(
    counts: &[Count<'a>],
    samples: &[Event<'a>],
    came: i64,
) -> Result<(Vec<Count<'a>>, Vec<Event<'a>>)> {
    let keyspaces = "SELECT keyspace FROM keysmith_private.keyspace";
    let keyspaces = spi::all(keyspaces, &[], |row| row.bytes(1))?;
    let keyspaces: HashSet<Vec<u8>> = keyspaces.into_iter().collect();
    let keyspace = |name: &'a [u8]| if keyspaces.contains(name) { name } else { b"" };
    let mut left = came.unsigned_abs();
    let count = |(of, why, requests): &Count<'a>| {
        let taken = (*requests).min(left);
        left -= taken;
        (keyspace(of), known_reason(why), taken)
    };
    let counts = counts.iter().map(count).filter(|(_, _, requests)| *requests > 0).collect();
    let now = now();
    let is_fit = |event: &&Event| {
        now.abs_diff(event.at) < AHEAD.unsigned_abs() && fault_of(&event.learned).is_none()
    };
    let sample = |event: &Event<'a>| Event {
        at: event.at.min(now),
        keyspace: keyspace(event.keyspace),
        outcome: known_reason(event.outcome),
        ..*event
    };
    Ok((counts, samples.iter().filter(is_fit).map(sample).collect()))
}
