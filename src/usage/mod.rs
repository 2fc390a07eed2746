//! Usage: what becomes of each request's record.
//!
//! A decision leaves a record, which `held` keeps back for `log_request` and then hands
//! on: to the `ring` in shared memory, whence the `worker` stores it, or to `in_place`,
//! which stores it with the transaction. `store` is how both write rows: the worker's go
//! `direct`ly into their partitions.

mod apart;
mod bounds;
mod bulk;
mod collect;
mod direct;
mod flush;
pub mod held;
mod in_place;
mod leftovers;
pub mod link;
mod lives;
mod log_request;
mod partitions;
mod presence;
mod process;
pub mod ring;
mod rows;
mod sender;
mod set_aside;
pub mod settings;
mod status;
mod store;
mod traces;
mod transaction;
mod unknown;
mod unknown_rows;
mod worker;

use crate::catalog::policy::{Policy, UsageLog};
use crate::decide::verdict::{Holder, Verdict};
use keysmith_core::event::{self, Event, Learned, MAX_LEN, Record};
use keysmith_core::policy::verdict::Reason;
use pgrx::pg_sys;
pub use presence::name as worker_name;
use std::ffi::c_int;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

/// What is known of a request at its decision.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    pub method: Option<&'a [u8]>,
    pub path: Option<&'a [u8]>,
    pub address: Option<IpAddr>,
    pub at: i64,
}

/// Notes a decision about a key that was found.
#[inline]
pub fn decided(
    policy: &Policy,
    request: &Request,
    holder: &Holder,
    reason: Reason,
    verdict: &Verdict,
) {
    let is_noted = match policy.usage_log {
        UsageLog::Everything => true,
        UsageLog::Refusals => reason != Reason::Ok,
        UsageLog::Nothing => false,
    };
    if !is_noted {
        return held::hand_on();
    }
    let (mut method_room, mut endpoint_room) = (Vec::new(), Vec::new());
    let record = Record::Event(Event {
        at: request.at,
        request_id: verdict.request_id,
        key_id: holder.key_id,
        tenant_id: holder.tenant_id,
        keyspace: holder.keyspace,
        environment: holder.environment,
        outcome: reason.name().as_bytes(),
        ip: request.address.filter(|_| policy.usage_details),
        learned: learned(
            policy,
            request,
            Some(verdict.status),
            &mut method_room,
            &mut endpoint_room,
        ),
    });
    let mut room = [0; MAX_LEN];
    let length = record.encode(&mut room);
    held::hold(&verdict.request_id, room.get(..length).unwrap_or_default());
}

/// Counts a request without a known key.
pub fn unknown(policy: &Policy, keyspace: &[u8], request: &Request, reason: Reason) {
    held::hand_on();
    if policy.usage_log == UsageLog::Nothing {
        return;
    }
    let Some((ring, place)) = presence::find_place() else { return };
    if !is_kept_here() {
        return ring.count(place, |counters| counters.not_logged += 1);
    }
    // Callers may name any number of keyspaces; those that exist are few.
    let keyspace = if policy.exists() { keyspace } else { b"" };
    let reason = reason.name().as_bytes();
    let is_sampled =
        ring.with(place, |database| database.unknown.count(keyspace, reason, request.at));
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
        let mut room = [0; MAX_LEN];
        let length = record.encode(&mut room);
        let record = room.get(..length).unwrap_or_default();
        ring.with(place, |database| database.unknown.sample(record, request.at));
    }
    presence::ensure(ring, place);
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
        latency: None,
        method: request.method.map(|method| cut(method, event::MOST_METHOD, method_room)),
        endpoint: path
            .map(|path| cut(event::without_query(path), event::MOST_ENDPOINT, endpoint_room)),
    }
}

/// A text that is short enough to be recorded, cut between characters if it wasn't.
fn cut<'a>(text: &'a [u8], most: usize, room: &'a mut Vec<u8>) -> &'a [u8] {
    // SAFETY: asks for the database's encoding.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int;
    let mark = if is_utf8 { "…" } else { "..." };
    let clip = |text: &[u8], limit: usize| {
        let (length, limit) = (text.len() as c_int, limit as c_int);
        // SAFETY: the text is read up to its length; both are small.
        unsafe { pg_sys::pg_mbcliplen(text.as_ptr().cast(), length, limit) }.unsigned_abs() as usize
    };
    event::cut(text, most, mark.as_bytes(), clip, room)
}

/// Whether records are kept here: on a standby only if it has where to send them.
fn is_kept_here() -> bool {
    // SAFETY: asks for the server's state.
    !unsafe { pg::direct::RecoveryInProgress() } || link::is_wanted()
}

/// Whether this transaction may write rows.
fn can_write() -> bool {
    // SAFETY: asks for the state of the transaction and the server.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}

/// Requests that a backend without shared memory could not record.
static LOST_HERE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Counts a record that is given up.
fn drop_record() {
    match presence::place() {
        None => {
            LOST_HERE.fetch_add(1, Relaxed);
        }
        Some((ring, place)) => ring.count(place, |counters| counters.dropped += 1),
    }
}
