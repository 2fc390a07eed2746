//! The record of a request, as a decision makes it.

use crate::catalog::policy::{Policy, UsageLog};
use crate::usage::session::overflow::is_kept_here;
use crate::usage::session::{pending, worker_slot};
use crate::verdict::{Form, Holder, Verdict};
use keysmith_core::event::{self, Event, Learned, MAX_LEN, Person, Record};
use keysmith_core::lists;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::policy::weights::{CALLS, Weights};
use pg::server::encoding_is_utf8;
use pg::text;
use std::net::IpAddr;

/// What is known of a request at its decision.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    pub method: Option<&'a [u8]>,
    pub path: Option<&'a [u8]>,
    pub address: Option<IpAddr>,
    pub at: i64,
    /// The credits that it costs if it is let through.
    pub spend: i64,
    /// What it counts for if it is let through.
    pub weights: Weights<'a>,
    /// For whom the application makes it.
    pub subject: Option<&'a [u8]>,
}

/// Notes a decision about a key that was found.
#[inline]
pub fn decided(
    policy: &Policy,
    request: &Request,
    holder: &Holder,
    reason: Reason,
    verdict: &Verdict<'_, impl Form>,
) {
    if !policy.usage_log.has(reason) {
        return pending::hand_on();
    }
    let (mut method_room, mut endpoint_room, mut weights_room) =
        (Vec::new(), Vec::new(), Vec::new());
    let is_charged =
        reason == Reason::Ok && request.spend > 0 && policy.charges(holder.environment);
    let spend = is_charged.then_some(request.spend.min(event::MOST_SPEND));
    let record = Record::Event(Event {
        at: request.at,
        request_id: verdict.request_id,
        key_id: holder.key_id,
        tenant_id: holder.tenant_id,
        keyspace: holder.keyspace,
        environment: holder.environment,
        outcome: reason.name().as_bytes(),
        ip: request.address.filter(|_| policy.usage_details),
        learned: Learned {
            spend,
            weights: weights(&request.weights, &mut weights_room),
            ..learned(policy, request, Some(verdict.status), &mut method_room, &mut endpoint_room)
        },
        person: None,
        subject: request.subject.filter(|_| policy.usage_details),
        is_counted_only: policy.usage_log == UsageLog::Totals,
        counted_tags: None,
    });
    let mut room = [0; MAX_LEN];
    let length = record.encode(&mut room);
    pending::put(&verdict.request_id, room.get(..length).unwrap_or_default());
}

/// Takes notice of a request without a record. `log_request` completes no earlier one from now on.
pub fn unrecorded() {
    pending::hand_on();
}

/// The endpoint of a record of `act_as`, until the application reports the one of the request.
const ACT_AS: &[u8] = b"act_as";

/// Notes that a person was signed in. The keyspace's `usage_log` is about requests of keys; this is
/// recorded whatever it says, since nothing else shows who was signed in.
pub fn signed_in(
    keyspace: &[u8],
    tenant_id: [u8; 16],
    request_id: [u8; 16],
    person: Person,
    at: i64,
) {
    let mut room = Vec::new();
    let record = Record::Event(Event {
        at,
        request_id,
        tenant_id,
        keyspace,
        outcome: event::ACCEPTED,
        learned: Learned { status: Some(200), endpoint: Some(ACT_AS), ..Learned::default() },
        person: Some(Person {
            member: cut(person.member, event::MOST_MEMBER, &mut room),
            ..person
        }),
        ..Event::default()
    });
    pending::put(&request_id, &record.to_vec());
}

/// Counts a request without a known key.
#[inline(always)]
pub fn unknown(policy: &Policy, keyspace: &[u8], request: &Request, reason: Reason) {
    pending::hand_on();
    if policy.usage_log == UsageLog::Nothing {
        return;
    }
    let Some((queue, place)) = worker_slot::find_place() else { return };
    if !is_kept_here() {
        return queue.count(place, |counters| counters.not_logged += 1);
    }
    // Callers may name any number of keyspaces; those that exist are few.
    let keyspace = if policy.exists() { keyspace } else { b"" };
    let reason = reason.name().as_bytes();
    let is_sampled =
        queue.with(place, |database| database.unknown.count(keyspace, reason, request.at));
    if is_sampled == Some(true) {
        let (mut method_room, mut endpoint_room) = (Vec::new(), Vec::new());
        let record = Record::Event(Event {
            at: request.at,
            keyspace,
            outcome: reason,
            ip: request.address.filter(|_| policy.usage_details),
            learned: learned(policy, request, None, &mut method_room, &mut endpoint_room),
            ..Event::default()
        });
        let record = record.to_vec();
        queue.with(place, |database| database.unknown.sample(&record, request.at));
    }
    worker_slot::ensure(queue, place);
}

fn learned<'a>(
    policy: &Policy,
    request: &Request<'a>,
    status: Option<i32>,
    method_room: &'a mut Vec<u8>,
    endpoint_room: &'a mut Vec<u8>,
) -> Learned<'a> {
    let path = request.path.filter(|_| policy.usage_details);
    Learned {
        status,
        method: request.method.map(|method| cut(method, event::MOST_METHOD, method_room)),
        endpoint: path
            .map(|path| cut(event::without_query(path), event::MOST_ENDPOINT, endpoint_room)),
        ..Learned::default()
    }
}

/// The weights of a request as a list; `None` for one call. One call among other units is left out.
#[inline]
fn weights<'a>(weights: &Weights, room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if *weights == Weights::ONE_CALL {
        return None;
    }
    if weights.calls != 1 {
        lists::put_unit(room, CALLS, weights.calls);
    }
    weights.others.iter().for_each(|other| lists::put_unit(room, other.unit, other.weight));
    Some(room)
}

/// A text, cut between characters if it is too long to be recorded.
pub fn cut<'a>(text: &'a [u8], most: usize, room: &'a mut Vec<u8>) -> &'a [u8] {
    let mark = if encoding_is_utf8() { "…" } else { "..." };
    event::cut(text, most, mark.as_bytes(), text::clipped, room)
}
