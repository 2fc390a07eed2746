//! The worker of a server with the guard. It commits a transaction without rows at each beat, so
//! that standbys of an idle primary hear of it. It serves all databases, since replay is a matter
//! of the server, and no table grows. Databases with logical replication slots have subscribers;
//! for each of them it has a worker started.

use super::{pause, publisher};
use pg::clock::monotonic;
use pg::replication_slot;
use pg::worker::{self, Kind, Started, worker_entry};
use pgrx::pg_sys::{Datum, Oid};
use std::collections::BTreeMap;

pub const WORKER: Kind = Kind { name: c"keysmith heartbeat", entry: c"keysmith_heartbeat" };

worker_entry!(keysmith_heartbeat => beat);

/// How long a worker that found nothing to do is not started again, in microseconds.
const RETRIES: i64 = 5_000_000;

fn beat(_argument: Datum) {
    let mut publishers = BTreeMap::new();
    worker::begin(None);
    while !worker::shutdown_requested() {
        // The commit waits for no standby: the standby may be the one that lags.
        worker::commit_something();
        start_publishers(&mut publishers);
        pg::latch::wait(pause());
        worker::attend();
    }
    // Standbys would refuse all keys if it stayed away.
    worker::end_for_now()
}

/// Starts the workers that are missing. The map has, for each database, its worker and since when.
fn start_publishers(publishers: &mut BTreeMap<u32, (Option<Started>, i64)>) {
    let databases = replication_slot::databases();
    publishers.retain(|database, _| databases.contains(&Oid::from(*database)));
    for database in databases {
        let (worker, since) = publishers.entry(database.to_u32()).or_insert((None, i64::MIN));
        let has_ended = worker.as_ref().is_none_or(Started::has_ended);
        if has_ended && monotonic().saturating_sub(*since) > RETRIES {
            *worker = publisher::WORKER.start_watched(publisher::argument(database));
            *since = monotonic();
            if worker.is_none() {
                pgrx::warning!(
                    "keysmith: no worker is free to send heartbeats to the subscribers of database \
                     {}: raise max_worker_processes",
                    database.to_u32()
                );
            }
        }
    }
}
