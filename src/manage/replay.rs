//! Waits until the standbys have replayed a commit.

use super::authority;
use super::level::Needs;
use crate::usage::standby::link::APPLICATION;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pg::{clock, latch, server, transaction};
use pgrx::pg_sys::Datum;
use std::collections::BTreeMap;

sql_functions! {
    keysmith_wait_for_replay => wait_for_replay;
}

/// How often standbys are asked.
const POLL_MILLISECONDS: i64 = 50;
const LONGEST_MICROSECONDS: i128 = 24 * 3600 * 1_000_000;

/// Waits until every attached standby has replayed what is committed by now, and
/// tells how many there are. It must be called after the commit that they must have replayed.
fn wait_for_replay(call: &Call) -> Result<Option<Datum>> {
    let timeout = call.interval(0, "timeout")?;
    let length = i128::from(timeout.time)
        + (i128::from(timeout.day) + 30 * i128::from(timeout.month)) * 86_400_000_000;
    if !(0..=LONGEST_MICROSECONDS).contains(&length) {
        return Err(Error::argument("timeout", "must be from 0 to 24 hours"));
    }
    if server::is_in_recovery() {
        return Err(Error::new(Code::Conflict, "wait_for_replay must be called on the primary"));
    }
    if transaction::has_written() {
        return Err(Error::new(
            Code::Conflict,
            "wait_for_replay must be called after the commit, in another transaction",
        ));
    }
    let now = || i128::from(clock::monotonic());
    let deadline = now() + length;
    let target = authority::look(Needs::Nothing, |_| committed_position())?;
    let mut standbys = Standbys::default();
    // Each look has its own SPI session, so that a long wait takes no more memory.
    loop {
        authority::look(Needs::Nothing, |_| standbys.look(&target))?;
        let behind = standbys.behind();
        if behind.is_empty() {
            return Ok(Some(Datum::from(standbys.count())));
        }
        if now() >= deadline {
            let (late, all) = (behind.len(), standbys.count());
            return Err(Error::new(
                Code::ReplayTimeout,
                format!("{late} of {all} standbys have not replayed up to {target}"),
            )
            .detail(behind.join("; "))
            .hint("They may still accept keys that were revoked. Wait again, or detach them."));
        }
        authority::look(Needs::Nothing, |_| nudge())?;
        rest();
    }
}

/// Up to where the log is flushed, as every acknowledged act of management is.
fn committed_position() -> Result<String> {
    let position = "SELECT pg_catalog.pg_current_wal_flush_lsn()";
    let found = spi::first(position, &[], |row| row.text(1))?;
    Ok(found.unwrap_or_default())
}

/// The standbys, by name and address, and by number among those that share both. One that
/// disconnects stays in the list: it may go on answering.
#[derive(Default)]
struct Standbys(BTreeMap<(String, i64), Standby>);

struct Standby {
    state: String,
    has_replayed: bool,
}

impl Standbys {
    fn look(&mut self, target: &str) -> Result<()> {
        for standby in self.0.values_mut().filter(|standby| !standby.has_replayed) {
            standby.state = "detached".into();
        }
        // PostgreSQL reads the list of standbys once in a transaction, unless it is cleared.
        spi::execute("SELECT pg_catalog.pg_stat_clear_snapshot()", &[])?;
        // Several standbys may share a name. Those ahead are numbered first, so that none of
        // them is confused with one that lags.
        let standbys = spi::all(
            "SELECT name, row_number() OVER (PARTITION BY name ORDER BY replay_lsn DESC NULLS LAST),
                    pg_catalog.format('%s, %s bytes behind', state, coalesce(
                        pg_catalog.pg_wal_lsn_diff($1::pg_lsn, replay_lsn)::text, 'unknown')),
                    coalesce(replay_lsn >= $1::pg_lsn, false)
             FROM (SELECT pg_catalog.format('%s (%s)', application_name,
                              coalesce(pg_catalog.host(client_addr), 'local')) AS name,
                          state, replay_lsn
                   FROM pg_catalog.pg_stat_replication
                   WHERE state <> 'backup'
                     AND application_name NOT IN ('pg_basebackup', 'pg_receivewal')
                     AND NOT pg_catalog.starts_with(application_name, $2)) standby",
            &[Param::text(target), Param::text(APPLICATION)],
            |row| {
                let standby = Standby { state: row.text(3)?, has_replayed: row.boolean(4) };
                Some(((row.text(1)?, row.bigint(2)?), standby))
            },
        )?;
        self.0.extend(standbys);
        Ok(())
    }

    fn behind(&self) -> Vec<String> {
        let behind = self.0.iter().filter(|(_, standby)| !standby.has_replayed);
        behind.map(|((name, _), standby)| format!("{name} is {}", standby.state)).collect()
    }

    fn count(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

/// A standby tells how far it has replayed when it receives something. On an idle
/// primary that could take ten seconds, so a small message goes out with each round.
fn nudge() -> Result<()> {
    spi::execute("SELECT pg_catalog.pg_logical_emit_message(false, 'keysmith', '')", &[])?;
    transaction::flush();
    Ok(())
}

fn rest() {
    latch::wait(POLL_MILLISECONDS);
    pgrx::check_for_interrupts!();
}
