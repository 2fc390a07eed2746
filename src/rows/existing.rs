//! `protect_existing` digests the rows that are older than the protection of their table, some
//! pages per transaction.
//!
//! The table can change between two transactions. So each of them opens it by its OID, and checks
//! the caller, the table, its trigger and its columns again.

use super::columns::name;
use super::forms::{Column, Forms, values_left};
use super::pages;
use super::progress::HashingProgress;
use super::protect::{FUNCTION, TRIGGER, not_protected};
use pg::call::Call;
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::notice::notice;
use pg::procedure::procedures;
use pg::text::quoted_name;
use pg::user_table::{
    Latest, ROW_EXCLUSIVE, SHARE_ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, TableRight, Trigger,
    UserTable, hidden_rows, name_of,
};
use pgrx::pg_sys::{self, Datum, Oid};

procedures! {
    keysmith_protect_existing => protect_existing;
}

/// The limit of rounds that leave as many values as the round before. Concurrent writers may cause
/// one; from then on they are locked out during each batch. A trigger that restores values would
/// cause such rounds forever.
const MOST_IDLE_ROUNDS: i64 = 5;

fn protect_existing(call: &Call) -> Result<impl Fn(u64) -> Result<bool> + Copy + use<>> {
    let relation = call.datum(0);
    let pages = call.bigint(1).filter(|pages| *pages >= 1);
    let pages = pages.ok_or_else(|| Error::argument("pages", "must be 1 or more"))?;
    let trusts = call.boolean(2, "trust_digests")?;
    Ok(move |number| {
        if number > 0 {
            return step(relation, pages);
        }
        begin(relation, trusts)?;
        Ok(true)
    })
}

/// Begins the work or resumes it.
fn begin(relation: Option<Datum>, trusts: bool) -> Result<()> {
    let table = UserTable::claim(relation, SHARE_UPDATE_EXCLUSIVE, TableRight::Ownership)?;
    let trigger = trigger_of(&table)?
        .ok_or_else(|| not_protected(&table).hint("Call keysmith.protect first."))?;
    let mut progress = HashingProgress::of(trigger.oid);
    let unknown = unknown(&trigger, &progress);
    let lock = if unknown.is_empty() { ROW_EXCLUSIVE } else { SHARE_ROW_EXCLUSIVE };
    // The values must not change between the check and the commit of its result.
    table.lock(lock);
    let parts = table.parts(lock, TableRight::Ownership)?;
    if let Some(part) = parts.iter().find(|part| part.hides_rows()) {
        return Err(hidden_rows(part));
    }
    if let Some(part) = parts.iter().find(|part| !part.can_be_read_by_pages()) {
        let message =
            format!("the access method of {} does not read rows by their places", part.name());
        return Err(Error::new(Code::InvalidArgument, message));
    }
    let all: Vec<&UserTable> = parts.iter().collect();
    let snapshot = Latest::now();
    for column in unknown {
        let forms = Forms::of(&all, &column, &snapshot)?;
        if forms.has_digests && forms.has_values && !trusts {
            let shown = format!("{}.{}", table.name(), quoted_name(&column));
            let message =
                format!("some values of {shown} looked like digests when it was protected");
            return Err(Error::new(Code::Conflict, message).hint(
                "If they are keysmith's digests, and not values that look like digests, pass trust_digests => true.",
            ));
        }
        progress.clean.push(column);
    }
    if !progress.is_under_way() {
        progress = HashingProgress {
            clean: progress.clean,
            started_at: Some(clock::now()),
            round: 1,
            pages_total: parts.iter().map(|part| i64::from(part.pages())).sum(),
            ..HashingProgress::default()
        };
    }
    (progress.left, progress.idle_rounds) = (i64::MAX, 0);
    progress.write(&trigger);
    Ok(())
}

/// The columns in which a value may look like a digest without being one.
fn unknown(trigger: &Trigger, progress: &HashingProgress) -> Vec<String> {
    let columns = trigger.arguments.iter().map(|argument| name(argument).to_owned());
    columns.filter(|column| !progress.clean.contains(column)).collect()
}

/// Digests some pages, or, after the last page, checks whether all is done. Returns whether there
/// is more to do.
fn step(relation: Option<Datum>, pages: i64) -> Result<bool> {
    let table = UserTable::claim(relation, SHARE_UPDATE_EXCLUSIVE, TableRight::Ownership)?;
    let trigger = trigger_of(&table)?.ok_or_else(|| not_protected(&table))?;
    let mut progress = HashingProgress::of(trigger.oid);
    if progress.finished_at.is_some() {
        // Another session has called it, too.
        return Ok(false);
    }
    if progress.started_at.is_none() {
        let message = format!("the progress of table {} was lost", table.name());
        return Err(Error::new(Code::Conflict, message).hint(
            "It is kept in the comment of the trigger. Call keysmith.protect_existing again.",
        ));
    }
    if let Some(column) = unknown(&trigger, &progress).first() {
        let column = quoted_name(column);
        let message = format!("column {column} of {} was protected meanwhile", table.name());
        return Err(
            Error::new(Code::Conflict, message).hint("Call keysmith.protect_existing again.")
        );
    }
    let tenths = progress.tenths();
    match next_part(&table, &mut progress)? {
        Some(part) => {
            let first = progress.page;
            let columns = columns_of(&part, &trigger)?;
            let beyond = first.saturating_add(pages);
            let page = |number: i64| u32::try_from(number).unwrap_or(u32::MAX).min(part.pages());
            let rows = pages::digest(&part, &columns, page(first)..page(beyond))?;
            progress.page = beyond;
            progress.pages_done = progress.pages_done.saturating_add(pages);
            progress.rows = progress.rows.saturating_add(rows);
            drop(part);
            if progress.tenths() > tenths && next_part(&table, &mut progress)?.is_some() {
                tell(&table, &progress);
            }
        }
        None => finish_round(&table, &trigger, &mut progress)?,
    }
    progress.write(&trigger);
    Ok(progress.is_under_way())
}

fn tell(table: &UserTable, progress: &HashingProgress) {
    let done = progress.pages_done.min(progress.pages_total);
    let (total, rows) = (progress.pages_total, progress.rows);
    notice(
        format!("{done} of {total} pages of {} are done, {rows} rows digested", table.name()),
        None,
    );
}

/// The current part or the next one that has pages left, locked.
fn next_part(table: &UserTable, progress: &mut HashingProgress) -> Result<Option<UserTable>> {
    let mut parts: Vec<(String, Oid)> = table
        .part_ids(pg_sys::NoLock as i32)
        .into_iter()
        .filter_map(|oid| name_of(oid).map(|name| (name, oid)))
        .filter(|(name, _)| progress.part.as_ref().is_none_or(|at| name >= at))
        .collect();
    let lock = if progress.idle_rounds > 0 { SHARE_ROW_EXCLUSIVE } else { ROW_EXCLUSIVE };
    parts.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, oid) in parts {
        let Some(part) = UserTable::claim_part(oid, lock)? else { continue };
        if progress.part.as_ref() != Some(&name) {
            progress.part = Some(name);
            progress.page = 0;
        }
        if progress.page < i64::from(part.pages()) {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

/// The columns of a part that are to be digested, checked under its lock.
fn columns_of(part: &UserTable, trigger: &Trigger) -> Result<Vec<Column>> {
    if part.hides_rows() {
        return Err(hidden_rows(part));
    }
    let own = trigger_of(part)?;
    if own.is_none_or(|own| own.arguments != trigger.arguments) {
        let message = format!("table {} does not digest what its parent does", part.name());
        return Err(Error::new(Code::Conflict, message)
            .hint("Call keysmith.protect again for the table that it is a child of."));
    }
    trigger.arguments.iter().map(|argument| Column::of(part, name(argument))).collect()
}

/// The trigger of a protected table, which must not be disabled.
fn trigger_of(table: &UserTable) -> Result<Option<Trigger>> {
    let trigger = table.trigger(TRIGGER, FUNCTION);
    if trigger.as_ref().is_some_and(|trigger| !trigger.fires) {
        let message = format!("the trigger that digests values of {} is disabled", table.name());
        return Err(Error::new(Code::Conflict, message).hint(
            "It must be enabled, and session_replication_role be origin, for rows to be digested.",
        ));
    }
    Ok(trigger)
}

/// Rows that were updated meanwhile have moved, maybe to pages that were done. All new values are
/// digests. So the work is done when a snapshot shows digests only.
fn finish_round(
    table: &UserTable,
    trigger: &Trigger,
    progress: &mut HashingProgress,
) -> Result<()> {
    let parts = table.parts(ROW_EXCLUSIVE, TableRight::Ownership)?;
    let parts: Vec<&UserTable> = parts.iter().collect();
    let snapshot = Latest::now();
    let mut left = 0;
    for argument in &trigger.arguments {
        left += values_left(&parts, name(argument), &snapshot)?;
    }
    (progress.part, progress.page) = (None, 0);
    if left == 0 {
        progress.finished_at = Some(clock::now());
        notice(
            format!("all of {} is digested; {} rows were", table.name(), progress.rows),
            Some("The old values stay in dead rows until VACUUM FULL, and in the WAL until it is recycled.".into()),
        );
        return Ok(());
    }
    progress.round += 1;
    progress.idle_rounds =
        if left < progress.left { 0 } else { progress.idle_rounds.saturating_add(1) };
    progress.left = left;
    if progress.idle_rounds > MOST_IDLE_ROUNDS {
        let message = format!("{left} values of {} stay as they are", table.name());
        return Err(Error::new(Code::Conflict, message).hint(format!(
            "A trigger, by a name after \"~keysmith_1_hash\" or one that returns no row, may put them back. See \\d {}.",
            table.name()
        )));
    }
    Ok(())
}
