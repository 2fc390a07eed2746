//! Waiting until the standbys know.

use super::authority;
use super::sql::{self, Param};
use crate::call::{Call, sql_functions};
use crate::error::{Code, Error, Result};
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_wait_for_replay => wait_for_replay;
}

/// How often standbys are asked.
const POLL_MILLISECONDS: i64 = 50;
const LONGEST_MICROSECONDS: i128 = 24 * 3600 * 1_000_000;

/// Waits until every attached standby has replayed what is committed by now, and
/// tells how many there are. To be called after the commit that shall be seen.
fn wait_for_replay(call: &Call) -> Result<Option<Datum>> {
    let timeout = call.interval(0, "timeout")?;
    let length = i128::from(timeout.time)
        + (i128::from(timeout.day) + 30 * i128::from(timeout.month)) * 86_400_000_000;
    if !(0..=LONGEST_MICROSECONDS).contains(&length) {
        return Err(Error::argument("timeout", "must be from 0 to 24 hours"));
    }
    // SAFETY: both read the state of the transaction and of the server.
    let (has_written, on_standby) = unsafe {
        let xid = pg_sys::GetTopTransactionIdIfAny();
        (xid != pg_sys::InvalidTransactionId, pg_sys::RecoveryInProgress())
    };
    if on_standby {
        return Err(Error::new(Code::Conflict, "wait_for_replay must be called on the primary"));
    }
    if has_written {
        return Err(Error::new(
            Code::Conflict,
            "wait_for_replay must be called after the commit, in a transaction of its own",
        ));
    }
    // SAFETY: reads the clock.
    let now = || i128::from(unsafe { pg_sys::GetCurrentTimestamp() });
    let deadline = now() + length;
    let target = authority::look(committed_position)?;
    // Each look is a session of its own, so that waiting long takes no memory.
    loop {
        let (standbys, behind) = authority::look(|| lagging(&target))?;
        if behind.is_empty() {
            return Ok(Some(Datum::from(standbys)));
        }
        if now() >= deadline {
            let count = behind.len();
            return Err(Error::new(
                Code::ReplayTimeout,
                format!("{count} of {standbys} standbys have not replayed up to {target}"),
            )
            .detail(behind.join("; "))
            .hint("They may still accept keys that were revoked. Wait again, or detach them."));
        }
        authority::look(nudge)?;
        rest();
    }
}

/// Up to where the log is flushed, as every acknowledged act of management is.
fn committed_position() -> Result<String> {
    let rows = sql::query("SELECT pg_catalog.pg_current_wal_flush_lsn()", &[])?;
    Ok(rows.first().and_then(|row| row.text(1)).unwrap_or_default())
}

/// How many standbys there are, and those that have not replayed up to a position.
fn lagging(target: &str) -> Result<(i32, Vec<String>)> {
    let rows = sql::query(
        "SELECT pg_catalog.format('%s (%s) is %s, %s bytes behind',
                    application_name, coalesce(pg_catalog.host(client_addr), 'local'), state,
                    coalesce(pg_catalog.pg_wal_lsn_diff($1::pg_lsn, replay_lsn)::text, 'unknown')),
                coalesce(replay_lsn >= $1::pg_lsn, false)
         FROM pg_catalog.pg_stat_replication
         WHERE state <> 'backup'
         ORDER BY application_name, pid",
        &[Param::text(target)],
    )?;
    let behind = rows.iter().filter(|row| !row.boolean(2)).filter_map(|row| row.text(1)).collect();
    Ok((i32::try_from(rows.count).unwrap_or(i32::MAX), behind))
}

/// A standby tells how far it has replayed when it receives something. On an idle
/// primary that could take ten seconds, so a small message goes out with each round.
fn nudge() -> Result<()> {
    sql::execute("SELECT pg_catalog.pg_logical_emit_message(false, 'keysmith', '')", &[])?;
    // SAFETY: flushes what was just written.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
    Ok(())
}

fn rest() {
    // SAFETY: waits on this process's own latch, and ends with the postmaster.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            POLL_MILLISECONDS,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}
