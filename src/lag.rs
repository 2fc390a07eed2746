//! The lag guard: a standby that lags too far behind refuses all keys, since any of them may have
//! been revoked meanwhile.
//!
//! A standby knows the time of the newest commit that it has replayed, and all earlier commits are
//! replayed, too. An idle primary commits nothing. So a primary with the guard runs a worker that
//! commits a transaction without rows at each beat. One worker serves all databases, since replay
//! is a matter of the server, and no table grows.

use pg::server;
use pg::settings::{About, Context, Integer};
use pg::worker::{self, Kind, worker_entry};
use pgrx::pg_sys::{self, Datum};

/// 0 turns the guard off, which is the default: the guard needs a setting on the primary and
/// synchronized clocks, and turns replication lag into refusals.
static MOST: Integer = Integer::new(
    About {
        name: c"keysmith.max_replica_lag",
        description: c"How old what a standby has replayed may be before it refuses all keys.",
        explanation: c"0 lets it answer however old that is. To be set on the primary too, which \
                       then commits something now and then.",
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
    if MOST.get() == 0 {
        return;
    }
    HEARTBEAT.start_with_server();
}

/// Whether the guard is on.
#[inline]
pub fn is_guarded() -> bool {
    MOST.get() != 0
}

/// Whether this server is a standby that lags too far behind.
#[inline]
pub fn is_behind(now: i64) -> bool {
    let most = MOST.get();
    most != 0 && is_older(i64::from(most) * 1000, now)
}

#[cold]
fn is_older(most: i64, now: i64) -> bool {
    // If no commit was replayed since the start, the time is 0, which is long ago.
    server::is_in_recovery() && now.saturating_sub(server::latest_replayed_commit()) > most
}

const HEARTBEAT: Kind = Kind { name: c"keysmith heartbeat", entry: c"keysmith_heartbeat" };

worker_entry!(keysmith_heartbeat => beat);

fn beat(_argument: Datum) {
    let pause = (MOST.get() / BEATS).clamp(SHORTEST_BEAT, LONGEST_BEAT);
    worker::begin(None);
    while !worker::shutdown_requested() {
        // The commit waits for no standby: the standby may be the one that lags.
        worker::commit_something();
        pg::latch::wait(i64::from(pause));
        worker::attend();
    }
}
