//! `log_request`: what the application learns of a request after the decision.

use crate::usage::record::cut;
use crate::usage::session::pending;
use crate::usage::session::write_through;
use keysmith_core::event::{self, Learned, Record};
use keysmith_core::policy::weights::Asked;
use keysmith_core::{lists, request_id};
use pg::call::{Bytes, Call, sql_functions};
use pg::clock::{DAY, now};
use pg::error::{Error, Result};
use pg::jsonb::Json;
use pg::text;
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_log_request => log_request;
}

/// Longer than any request takes. A clock went wrong if it is more.
const MOST_LATENCY_DAYS: i64 = 30;
/// By how much the clocks of servers may differ, in microseconds.
const SKEW: i64 = 60_000_000;

fn log_request(call: &Call) -> Result<Option<Datum>> {
    let status = call.integer(0);
    if status.is_some_and(|status| !(100..=999).contains(&status)) {
        return Err(Error::argument("status_code", "must be from 100 to 999"));
    }
    let latency = match call.datum(1) {
        None => None,
        Some(_) => Some(microseconds(call.interval(1, "latency")?)?),
    };
    let request_id = match call.datum(4) {
        None => None,
        Some(_) => Some(call.uuid(4, "request_id")?),
    };
    let mut room = Vec::new();
    let told = Learned { status, latency, tags: tags(call, 5, &mut room)?, ..Learned::default() };
    let is_taken = amend(request_id, told, argument(call, 2), argument(call, 3));
    Ok(Some(Datum::from(is_taken)))
}

/// The argument `tags`, as a list in `room`.
fn tags<'a>(call: &Call, n: usize, room: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>> {
    let fault = |rule: String| {
        Err(Error::argument("tags", rule)
            .hint(r#"It is an object of names and texts, such as {"model": "small"}."#))
    };
    let Some(given) = call.jsonb(n) else { return Ok(None) };
    if given.length() > 4 * lists::MOST_TAGS_BYTES {
        return fault(TOO_LONG.into());
    }
    let Some(Json::Object(tags)) = call.json(n) else {
        return fault("must be a JSON object".into());
    };
    for (count, (name, value)) in tags.pairs().enumerate() {
        if count == lists::MOST_TAGS {
            return fault(format!("must have at most {} tags", lists::MOST_TAGS));
        }
        if !lists::is_name(name) {
            return fault(
                "must have names of 1 to 31 letters a-z, digits, _ and -, beginning with a letter"
                    .into(),
            );
        }
        let Json::Text(value) = value else {
            return fault("must have texts as values".into());
        };
        let length = text::from_server(value).map_or(value.len(), |text| text.chars().count());
        if !(1..=lists::MOST_VALUE).contains(&length) {
            return fault(format!("must have values of 1 to {} characters", lists::MOST_VALUE));
        }
        lists::put(room, name, value);
    }
    if room.len() > lists::MOST_TAGS_BYTES {
        return fault(TOO_LONG.into());
    }
    Ok(Some(room))
}

const TOO_LONG: &str = "must not take more than 1000 bytes";

/// Notes what a request used after all. These weights replace those of the same units.
pub fn used(request_id: &[u8; 16], weights: &Asked) {
    let mut room = Vec::new();
    weights.all_given().for_each(|used| lists::put_unit(&mut room, used.unit, used.weight));
    let _ = amend(
        Some(*request_id),
        Learned { weights: Some(&room), ..Learned::default() },
        None,
        None,
    );
}

/// Amends the record of a request: without an id, that of the last one. False if there is no such
/// record.
fn amend(
    request_id: Option<[u8; 16]>,
    told: Learned,
    endpoint: Option<&[u8]>,
    method: Option<&[u8]>,
) -> bool {
    let (mut endpoint_room, mut method_room) = (Vec::new(), Vec::new());
    let endpoint = endpoint.map(event::without_query);
    let told = Learned {
        endpoint: endpoint.map(|text| cut(text, event::MOST_ENDPOINT, &mut endpoint_room)),
        method: method.map(|text| cut(text, event::MOST_METHOD, &mut method_room)),
        ..told
    };
    pending::amend(request_id.as_ref(), told)
        || request_id.is_some_and(|request_id| amend_later(request_id, told))
}

fn amend_later(request_id: [u8; 16], told: Learned) -> bool {
    write_through::amend(&request_id, told) || send(request_id, told)
}

/// Notes the status that a request was answered with, and for a person the request itself.
pub fn answered(request_id: &[u8; 16], status: i32, method: Option<&[u8]>, path: Option<&[u8]>) {
    let _ = amend(
        Some(*request_id),
        Learned { status: Some(status), ..Learned::default() },
        path,
        method,
    );
}

/// A request id that no request of the last days can have is not looked for.
fn send(request_id: [u8; 16], told: Learned) -> bool {
    let now = now();
    let possible = now - MOST_LATENCY_DAYS * DAY..now + SKEW;
    if !request_id::moment(&request_id).is_some_and(|moment| possible.contains(&moment)) {
        return false;
    }
    pending::send(&Record::Amendment { request_id, at: now, told }.to_vec())
}

fn argument(call: &Call, n: usize) -> Option<&[u8]> {
    match call.bytes(n, usize::MAX) {
        Some(Bytes::Read(text)) => Some(text),
        _ => None,
    }
}

fn microseconds(latency: pg_sys::Interval) -> Result<i64> {
    let days = i64::from(latency.month) * 30 + i64::from(latency.day);
    days.checked_mul(DAY)
        .and_then(|days| days.checked_add(latency.time))
        .filter(|latency| (0..=MOST_LATENCY_DAYS * DAY).contains(latency))
        .ok_or_else(|| {
            Error::argument("latency", format!("must be from 0 to {MOST_LATENCY_DAYS} days"))
        })
}
