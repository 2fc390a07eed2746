//! The lag guard: a standby that has fallen behind refuses, since what it would let in
//! may have been revoked meanwhile.
//!
//! A standby knows when the newest commit that it has replayed was made: all that was
//! committed before is replayed too. An idle primary commits nothing, so one with the
//! guard has a worker that does, a transaction without rows at each beat. The beat is
//! the server's and not a database's: one serves all of them, and no table grows.

use pg::server;
use pg::settings::{About, Context, Integer};
use pg::worker::{self, Kind, worker_entry};
use pgrx::pg_sys::{self, Datum};

/// 0 is off, which is the default: the guard takes the primary's help, and clocks that
/// agree, and turns a standby's delay into refusals.
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

/// Beats in the time that a standby may lag: some may be late.
const BEATS: i32 = 5;
const SHORTEST_BEAT: i32 = 50;
const LONGEST_BEAT: i32 = 10_000;

/// To be called from `_PG_init`, while the library is preloaded and not otherwise: the
/// worker starts with the server.
pub fn install() {
    MOST.define();
    if MOST.get() == 0 {
        return;
    }
    HEARTBEAT.start_with_server();
}

/// Whether a standby that has fallen behind must not answer.
#[inline]
pub fn is_guarded() -> bool {
    MOST.get() != 0
}

/// Whether this is such a standby.
#[inline]
pub fn is_behind(now: i64) -> bool {
    let most = MOST.get();
    most != 0 && is_older(i64::from(most) * 1000, now)
}

#[cold]
fn is_older(most: i64, now: i64) -> bool {
    // Without a commit since the start there is no time, which is 0: long ago.
    server::is_in_recovery() && now.saturating_sub(server::latest_replayed_commit()) > most
}

const HEARTBEAT: Kind = Kind { name: c"keysmith heartbeat", entry: c"keysmith_heartbeat" };

worker_entry!(keysmith_heartbeat => beat);

fn beat(_argument: Datum) {
    let pause = (MOST.get() / BEATS).clamp(SHORTEST_BEAT, LONGEST_BEAT);
    worker::begin(None);
    while !worker::shutdown_requested() {
        // A standby that is waited for may be the one that lags.
        worker::commit_something();
        pg::latch::wait(i64::from(pause));
        worker::attend();
    }
}
