//! The lag guard: a standby or subscriber that lags too far behind refuses all keys, since any of
//! them may have been revoked meanwhile.
//!
//! A standby knows the time of the newest commit that it has replayed, and all earlier commits are
//! replayed, too. A subscriber reads the time of its publisher's newest heartbeat, a row that is
//! replicated with the others: see `publisher`. If both are idle, the heartbeat goes on.

mod heartbeat;
mod publisher;

use crate::catalog::{Catalog, subscription};
use pg::scan::Snapshot;
use pg::server;
use pg::settings::{About, Context, Integer};
use pgrx::pg_sys;
use std::cell::Cell;

/// 0 turns the guard off, which is the default: the guard needs a setting on the primary and
/// synchronized clocks, and turns replication lag into refusals.
static MOST: Integer = Integer::new(
    About {
        name: c"keysmith.max_replica_lag",
        description: c"How old the data of a standby or subscriber may be before it refuses all \
                       keys.",
        explanation: c"With 0 it answers however old they are. Set it on the primary or publisher \
                       too, which then commits something from time to time.",
        context: Context::Postmaster,
        flags: pg_sys::GUC_UNIT_MS,
    },
    0,
    0,
    24 * 3600 * 1000,
);

/// The number of beats in the allowed lag, so that a few beats may be late.
const BEATS: i32 = 5;
const SHORTEST_BEAT: i32 = 50;
const LONGEST_BEAT: i32 = 10_000;

/// Defines the setting, and registers the worker that starts with the server. To be called from
/// `_PG_init`, only while the library is preloaded.
pub fn install() {
    MOST.define();
    if is_guarded() {
        heartbeat::WORKER.start_with_server();
    }
}

/// The time between two beats, in milliseconds.
fn pause() -> i64 {
    i64::from((MOST.get() / BEATS).clamp(SHORTEST_BEAT, LONGEST_BEAT))
}

/// How old data may be, in seconds; 0 if the guard is off.
pub fn most() -> f64 {
    f64::from(MOST.get()) / 1000.0
}

/// Whether the guard is on.
#[inline]
pub fn is_guarded() -> bool {
    MOST.get() != 0
}

/// Whether what a snapshot sees here is too old: this server is a standby, or this database a
/// subscriber, that lags too far behind.
#[inline]
pub fn is_behind(catalog: &Catalog, snapshot: &Snapshot, now: i64) -> bool {
    is_guarded() && has_lapsed(heard(catalog, snapshot, now), now)
}

/// Whether what was found here, when this heartbeat was the newest, is too old.
#[cold]
pub fn has_lapsed(heard: Option<i64>, now: i64) -> bool {
    let most = i64::from(MOST.get()) * 1000;
    // If no commit was replayed since the start, the time is 0, which is long ago.
    server::is_in_recovery() && now.saturating_sub(server::latest_replayed_commit()) > most
        || heard.is_some_and(|at| !is_near(at, now))
}

/// Of a clock that is far ahead nobody can say how old a heartbeat is.
fn is_near(at: i64, now: i64) -> bool {
    now.abs_diff(at) <= u64::from(MOST.get().unsigned_abs()) * 1000
}

thread_local! {
    /// A heartbeat of the subscription that these counts of changes stand for.
    static HEARD: Cell<([u64; 2], i64)> = const { Cell::new(([0; 2], i64::MIN)) };
}

/// A heartbeat of the publisher after which everything here was committed that a snapshot may lack;
/// `None` if this database is not a subscriber, or the guard is off. It is read from the table only
/// when the one that was read last is too old.
#[cold]
pub fn heard(catalog: &Catalog, snapshot: &Snapshot, now: i64) -> Option<i64> {
    if !is_guarded() || !catalog.is_subscriber() {
        return None;
    }
    let counts = subscription::counts();
    let (of, at) = HEARD.get();
    if of == counts && is_near(at, now) {
        return Some(at);
    }
    let at = catalog.heartbeat(snapshot).unwrap_or(i64::MIN);
    HEARD.set((counts, at));
    Some(at)
}
