//! `settle`: charges what a request really cost, once that is known.
//!
//! The row of the request's charge decides who comes first. The credits are locked before it: a decision
//! that spends takes the same order. Both are read as they are now, at any isolation level.

use super::arguments;
use crate::catalog::policy::UsageLog;
use crate::catalog::tables::Table;
use crate::catalog::{Catalog, access, columns};
use crate::decide::credits::{self, Purse, can_write};
use crate::{limit, settings, usage};
use keysmith_core::policy::verdict::Reason;
use pg::call::{Call, sql_functions};
use pg::clock::{self, DAY};
use pg::error::{Code, Error, Result};
use pg::row_lock::{Deadline, LockHolder};
use pg::scan::{Relation, Row, ScanKey, Snapshot};
use pg::spi::{Param, saved};
use pg::transaction;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_settle => settle;
}

fn settle(call: &Call) -> Result<Option<Datum>> {
    let request_id = call.uuid(0, "request_id")?;
    let cost = call.bigint(1);
    if cost.is_some_and(|cost| cost < 0) {
        return Err(Error::argument("spend", "must not be negative"));
    }
    let used = arguments::weights(call, None, 2)?;
    let has_weights = call.datum(2).is_some();
    if cost.is_none() && !has_weights {
        return Err(Error::argument("spend", "or weights must be given"));
    }
    let catalog = super::decision::opened()?;
    let is_charged = match cost {
        Some(cost) => settle_credits(&catalog, &request_id, cost)?,
        None => false,
    };
    // This comes last, as rolling back does not undo it.
    let counted = has_weights.then(|| {
        limit::unsettled::settle(&request_id, access::decidable(&catalog).as_deref(), &used)
    });
    let counted = counted.flatten();
    if counted.is_some_and(|request| request.is_recorded) {
        usage::used(&request_id, &used);
    }
    Ok(Some(Datum::from(is_charged || counted.is_some())))
}

fn settle_credits(catalog: &Catalog, request_id: &[u8; 16], cost: i64) -> Result<bool> {
    // On a subscriber nothing is spent, and the publisher settles.
    if !can_write() || catalog.is_subscriber() {
        return Err(Error::new(
            Code::Conflict,
            "a request can't be settled where nothing can be written",
        )
        .hint("Call settle on the primary or publisher, in a transaction that is not READ ONLY."));
    }
    let deadline = Deadline::after(settings::spend_timeout());
    let by_id = ScanKey::uuid(columns::charge::request_id, request_id);
    let read = |row: &Row| ChargeRow::read(catalog, row);
    let seen = {
        let snapshot = Snapshot::now();
        let relation = catalog.tables.charge.open();
        let mut scan = relation.scan(&snapshot, [by_id]);
        scan.next().and_then(|row| read(&row))
    };
    let Some(ChargeRow { credit_id, .. }) = seen else { return Ok(false) };
    // There is none if the credits were taken away meanwhile. Then nothing is owed.
    let by_credit = ScanKey::uuid(columns::credit::credit_id, &credit_id);
    let purse = locked(catalog.tables.credit_by_id, by_credit, deadline, Purse::read)?;
    // Others may have settled the request before its credits could be locked.
    let Some(charge) = locked(catalog.tables.charge, by_id, deadline, read)? else {
        return Ok(false);
    };
    catalog.as_owner(|| {
        credits::change(
            saved!(
                "UPDATE keysmith_private.charge
                 SET settled = $2, settled_at = pg_catalog.clock_timestamp() WHERE request_id = $1"
            ),
            &[Param::uuid(request_id), Param::bigint(Some(cost))],
        )?;
        // It gives back no more than was spent, as nothing costs less than 0.
        let amount = charge.spend.saturating_sub(cost);
        match purse {
            Some(purse) if amount != 0 => purse.changed_by(amount).store()?,
            _ => {}
        }
        if charge.usage_log.has(Reason::Ok) {
            usage::settled(request_id, cost);
        }
        Ok(())
    })?;
    Ok(true)
}

/// A charge that can be settled.
struct ChargeRow {
    credit_id: [u8; 16],
    spend: i64,
    /// The keyspace's `usage_log` when it was decided.
    usage_log: UsageLog,
}

impl ChargeRow {
    /// `None` if the request was settled already, is too old, or is one that the caller's role may not
    /// decide about.
    fn read(catalog: &Catalog, row: &Row) -> Option<ChargeRow> {
        use columns::charge as column;
        let is_settled = row.timestamp(column::settled_at).is_some();
        let at = row.timestamp(column::at)?;
        let is_old = at < clock::now().saturating_sub(DAY);
        let keyspace = row.bytes(column::keyspace)?;
        if is_settled || is_old || !access::may_decide(catalog, keyspace) {
            return None;
        }
        Some(ChargeRow {
            credit_id: row.uuid(column::credit_id)?,
            spend: row.bigint(column::spend)?,
            usage_log: UsageLog::named(row.bytes(column::usage_log)),
        })
    }
}

/// The next step, after a row was read.
enum Turn<T> {
    Ours(T),
    Others(LockHolder),
    Again,
}

/// Locks a row as it is now, and reads it. `None` if there is no such row, or `read` wants none.
fn locked<T>(
    table: Table,
    key: ScanKey,
    deadline: Deadline,
    read: impl Fn(&Row) -> Option<T>,
) -> Result<Option<T>> {
    let look = |relation: &Relation| {
        let snapshot = Snapshot::now();
        let mut scan = relation.scan(&snapshot, [key]);
        let row = scan.next()?;
        let found = read(&row)?;
        Some(match row.holder() {
            Some(holder) => Turn::Others(holder),
            None if row.lock(relation) => Turn::Ours(found),
            None => Turn::Again,
        })
    };
    loop {
        pgrx::check_for_interrupts!();
        match look(&table.open()) {
            None => return Ok(None),
            Some(Turn::Ours(found)) => return Ok(Some(found)),
            // The row may have been changed by the command that called this function.
            Some(Turn::Again) => transaction::increment_command_counter(),
            Some(Turn::Others(holder)) if deadline.wait_for(&holder) => {}
            Some(Turn::Others(_)) => {
                let message =
                    "another transaction is settling the request, or spending the same credits";
                return Err(Error::new(Code::LockNotAvailable, message)
                    .hint("Try again: keysmith.spend_timeout is how long settle waits."));
            }
        }
    }
}
