//! The worker of a database that publishes. At each beat it writes the time to a row that is
//! replicated with the tables that decide about keys. Changes arrive in the order of their commits,
//! so a subscriber that sees a beat sees all that was committed before it.
//!
//! It does so only where a publication has that table. A database that is itself a subscriber passes
//! on the beats that it receives, and writes none, since its own clock would not tell how old its
//! rows are.

use super::pause;
use crate::catalog::Catalog;
use pg::attempt;
use pg::error::Result;
use pg::lock::my_database_is_wanted;
use pg::worker::{self, Kind, worker_entry};
use pg::{lookup, replication_slot, server, spi};
use pgrx::pg_sys::{Datum, Oid};

pub const WORKER: Kind = Kind { name: c"keysmith publisher", entry: c"keysmith_publisher" };

worker_entry!(keysmith_publisher => publish);

/// `DROP DATABASE` waits for five seconds.
const LOOKS_AROUND: i64 = 1_000;

/// The worker's argument: the database, and the process that starts the worker.
pub fn argument(database: Oid) -> Datum {
    let pid = u64::from(server::my_pid().unsigned_abs());
    Datum::from((pid << 32) | u64::from(database.to_u32()))
}

fn publish(argument: Datum) {
    let database = Oid::from(argument.value() as u32);
    let starter = (argument.value() >> 32) as i32;
    worker::begin(Some(database));
    worker::be_independent();
    while attempt::transaction("keysmith heartbeat", beat).unwrap_or(false) {
        let mut left = pause();
        while left > 0 {
            pg::latch::wait(left.min(LOOKS_AROUND));
            left -= LOOKS_AROUND;
            worker::attend();
            if worker::shutdown_requested() || my_database_is_wanted() {
                return;
            }
        }
        if !server::has_process(starter) || !replication_slot::exists_for(database) {
            return;
        }
    }
}

/// Writes the time. False if nobody is to receive it.
fn beat() -> Result<bool> {
    if lookup::extension(c"keysmith").is_none() {
        return Ok(false);
    }
    let catalog = Catalog::open()?;
    if catalog.is_subscriber() {
        return Ok(false);
    }
    pg::transaction::with_snapshot(|| {
        catalog.as_owner(|| {
            let written = spi::execute(
                "INSERT INTO keysmith_private.heartbeat (at)
                 SELECT pg_catalog.clock_timestamp()
                 WHERE EXISTS (SELECT FROM pg_catalog.pg_publication WHERE puballtables)
                    OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel
                               WHERE prrelid = 'keysmith_private.heartbeat'::regclass)
                    OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                               WHERE pnnspid = 'keysmith_private'::regnamespace)
                 ON CONFLICT (one) DO UPDATE SET at = excluded.at",
                &[],
            )?;
            Ok(written > 0)
        })
    })
}
