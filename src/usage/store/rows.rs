//! Rows of usage as PostgreSQL takes them: the values of their columns.

use crate::usage::store::bulk::Row;
use keysmith_core::event::Event;
use keysmith_core::tally::{Counts, Group, Of};
use pgrx::pg_sys::{self, Datum};
use std::ffi::c_char;
use std::net::IpAddr;

/// The columns of `keysmith_private.usage_event`, and those of `keysmith_private.usage_delta`.
pub const EVENT: usize = 14;
pub const DELTA: usize = 14;

/// Texts are mostly those of the row before: each is made once then.
#[derive(Default)]
pub struct Texts<'a> {
    latest: [Option<(&'a [u8], Datum)>; EVENT],
}

impl<'a> Texts<'a> {
    fn datum(&mut self, column: usize, text: &'a [u8]) -> Datum {
        let Some(latest) = self.latest.get_mut(column) else { return bytes(text) };
        match latest {
            Some((known, datum)) if *known == text => *datum,
            _ => latest.insert((text, bytes(text))).1,
        }
    }
}

/// A row of a request. It points into the event.
pub fn event<'a>(
    event: &'a Event<'a>,
    incarnation: i64,
    sequence: i64,
    texts: &mut Texts<'a>,
) -> Row<EVENT> {
    let learned = &event.learned;
    Row::new([
        Some(Datum::from(event.at)),
        Some(Datum::from(incarnation)),
        Some(Datum::from(sequence)),
        Some(Datum::from(event.request_id.as_ptr())),
        Some(Datum::from(event.key_id.as_ptr())),
        Some(Datum::from(event.tenant_id.as_ptr())),
        Some(texts.datum(6, event.keyspace)),
        Some(texts.datum(7, event.environment)),
        learned.method.map(|text| texts.datum(8, text)),
        learned.endpoint.map(|text| texts.datum(9, text)),
        Some(Datum::from(learned.status.unwrap_or_default())),
        Some(texts.datum(11, event.outcome)),
        event.ip.map(inet),
        learned.latency.map(|latency| pg::datum::interval(0, latency)),
    ])
}

/// A row of what changed. It points into the group.
pub fn delta<'a>(group: &'a Group<'a>, counts: &Counts, texts: &mut Texts<'a>) -> Row<DELTA> {
    let environment = texts.datum(3, group.environment);
    let (key_id, status, outcome, method, endpoint) = match &group.of {
        Of::Key { key_id, status, outcome } => (
            Some(Datum::from(key_id.as_ptr())),
            Some(Datum::from(*status)),
            Some(texts.datum(5, outcome)),
            None,
            None,
        ),
        Of::Endpoint { method, endpoint } => {
            (None, None, None, Some(texts.datum(6, method)), Some(texts.datum(7, endpoint)))
        }
    };
    Row::new([
        Some(Datum::from(group.period)),
        Some(Datum::from(group.tenant_id.as_ptr())),
        key_id,
        Some(environment),
        status,
        outcome,
        method,
        endpoint,
        Some(Datum::from(counts.requests)),
        Some(Datum::from(counts.refused)),
        Some(Datum::from(counts.timed)),
        Some(pg::datum::interval(counts.latency_days, counts.latency)),
        counts.used_at.map(Datum::from),
        counts.changed_from.map(Datum::from),
    ])
}

/// A text as it is, in the database's encoding.
pub fn bytes(text: &[u8]) -> Datum {
    // SAFETY: the length is that of the slice.
    unsafe { pg_sys::cstring_to_text_with_len(text.as_ptr().cast::<c_char>(), text.len() as i32) }
        .into()
}

/// An inet has a text's layout: family, length of its network, address.
fn inet(address: IpAddr) -> Datum {
    const INET: u8 = 2;
    const INET6: u8 = 3;
    let mut value = [0; 18];
    let used = match address {
        IpAddr::V4(address) => {
            value[..2].copy_from_slice(&[INET, 32]);
            value[2..6].copy_from_slice(&address.octets());
            6
        }
        IpAddr::V6(address) => {
            value[..2].copy_from_slice(&[INET6, 128]);
            value[2..].copy_from_slice(&address.octets());
            18
        }
    };
    bytes(&value[..used])
}
