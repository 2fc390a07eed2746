//! Rows of usage: the values of their columns.

use keysmith_core::event::Event;
use keysmith_core::lists;
use keysmith_core::tally::{Counts, Group, Of, Tag, TagCounts, Unit};
use pg::cell::Cell;
use pgrx::pg_sys::{
    INETOID, INT4OID, INT8OID, INTERVALOID, JSONBOID, Oid, TEXTOID, TIMESTAMPTZOID, UUIDOID,
};

/// The columns of `keysmith_private.usage_event`: when, and which; whose; what; how it went.
pub const EVENT: [Oid; 21] = [
    TIMESTAMPTZOID,
    INT8OID,
    INT8OID,
    UUIDOID, // at, incarnation, sequence, request_id
    UUIDOID,
    UUIDOID,
    TEXTOID,
    TEXTOID, // key_id, tenant_id, keyspace, environment
    TEXTOID,
    TEXTOID,
    INT4OID,
    TEXTOID, // method, endpoint, status, outcome
    INETOID,
    INTERVALOID, // ip, latency
    TEXTOID,
    TEXTOID, // member, signed_in_by
    INT8OID,
    JSONBOID,
    TEXTOID,
    JSONBOID, // spend, weights, subject, tags
    TEXTOID,  // counted_tags
];

/// The columns of `keysmith_private.usage_delta`.
pub const DELTA: [Oid; 16] = [
    TIMESTAMPTZOID,
    UUIDOID,
    UUIDOID,
    TEXTOID, // hour, tenant_id, key_id, environment
    INT4OID,
    TEXTOID,
    TEXTOID,
    TEXTOID, // status, outcome, method, endpoint
    INT8OID,
    INT8OID,
    INT8OID,
    INTERVALOID, // requests, refused, timed, latency
    TIMESTAMPTZOID,
    TIMESTAMPTZOID, // used_at, changed_from
    INT8OID,
    INT8OID, // spend, gone
];

/// The columns of `keysmith_private.usage_unit_delta`.
pub const UNIT_DELTA: [Oid; 6] = [
    TIMESTAMPTZOID,
    UUIDOID,
    UUIDOID,
    TEXTOID, // hour, tenant_id, key_id, environment
    TEXTOID,
    INT8OID, // unit, amount
];

/// The columns of `keysmith_private.usage_tag_delta`.
pub const TAG_DELTA: [Oid; 7] = [
    TIMESTAMPTZOID,
    UUIDOID,
    TEXTOID,
    TEXTOID, // day, tenant_id, tag, environment
    TEXTOID,
    INT8OID,
    INT8OID, // value, requests, spend
];

/// A row of a request.
pub fn event<'a>(event: &'a Event<'a>, incarnation: i64, sequence: i64) -> [Cell<'a>; EVENT.len()] {
    let learned = &event.learned;
    [
        Cell::timestamp(Some(event.at)),
        Cell::bigint(Some(incarnation)),
        Cell::bigint(Some(sequence)),
        Cell::uuid(&event.request_id),
        Cell::uuid(&event.key_id),
        Cell::uuid(&event.tenant_id),
        Cell::server_text(Some(event.keyspace)),
        Cell::server_text(Some(event.environment)),
        Cell::server_text(learned.method),
        Cell::server_text(learned.endpoint),
        Cell::integer(Some(learned.status.unwrap_or_default())),
        Cell::server_text(Some(event.outcome)),
        Cell::inet(event.ip),
        Cell::interval(learned.latency.map(|latency| (0, latency))),
        Cell::server_text(event.person.map(|person| person.member)),
        Cell::server_text(event.person.map(|person| person.role)),
        Cell::bigint(learned.spend),
        Cell::json(learned.weights, lists::units_json),
        Cell::server_text(event.subject),
        Cell::json(learned.tags, lists::tags_json),
        Cell::server_text(event.counted_tags.filter(|_| learned.tags.is_some())),
    ]
}

/// A row of what changed.
pub fn delta<'a>(group: &'a Group<'a>, counts: &Counts) -> [Cell<'a>; DELTA.len()] {
    let (key_id, status, outcome, method, endpoint) = match &group.of {
        Of::Key { key_id, status, outcome } => {
            (Some(key_id), Some(*status), Some(*outcome), None, None)
        }
        Of::Endpoint { method, endpoint } => (None, None, None, Some(*method), Some(*endpoint)),
    };
    [
        Cell::timestamp(Some(group.period)),
        Cell::uuid(&group.tenant_id),
        Cell::uuid_or_null(key_id),
        Cell::server_text(Some(group.environment)),
        Cell::integer(status),
        Cell::server_text(outcome),
        Cell::server_text(method),
        Cell::server_text(endpoint),
        Cell::bigint(Some(counts.requests)),
        Cell::bigint(Some(counts.refused)),
        Cell::bigint(Some(counts.timed)),
        Cell::interval(Some((counts.latency_days, counts.latency))),
        Cell::timestamp(counts.used_at),
        Cell::timestamp(counts.changed_from),
        Cell::bigint(Some(counts.spend)),
        Cell::bigint(Some(counts.gone)),
    ]
}

/// A row of what changed of a unit.
pub fn unit_delta<'a>(of: &'a Unit<'a>, amount: i64) -> [Cell<'a>; UNIT_DELTA.len()] {
    [
        Cell::timestamp(Some(of.period)),
        Cell::uuid(&of.tenant_id),
        Cell::uuid(&of.key_id),
        Cell::server_text(Some(of.environment)),
        Cell::server_text(Some(of.unit)),
        Cell::bigint(Some(amount)),
    ]
}

/// A row of what changed of a tag's value.
pub fn tag_delta<'a>(of: &'a Tag<'a>, counts: &TagCounts) -> [Cell<'a>; TAG_DELTA.len()] {
    [
        Cell::timestamp(Some(of.period)),
        Cell::uuid(&of.tenant_id),
        Cell::server_text(Some(of.tag)),
        Cell::server_text(Some(of.environment)),
        Cell::server_text(Some(of.value)),
        Cell::bigint(Some(counts.requests)),
        Cell::bigint(Some(counts.spend)),
    ]
}
