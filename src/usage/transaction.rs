//! The worker's transactions, what became of them, and whether it is worth trying again.

use crate::catalog::Catalog;
use pg::error::{Error, Result};
use pg::memory::Watch;
use pg::settings::set_for_now;
use pg::transaction::in_subtransaction;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, BackendState};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

const EXTENSION: &CStr = c"keysmith";

/// Why a transaction failed.
pub struct Failure {
    pub message: String,
    /// It may pass: nothing is wrong with what was to be stored.
    pub is_passing: bool,
}

pub type Outcome<T> = std::result::Result<T, Failure>;

/// Runs something in a transaction of its own, as the extension's owner.
pub fn transaction<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    bare_transaction(what, || {
        let keeps_extension = keep_extension();
        Catalog::open()?.as_owner(|| {
            if !keeps_extension {
                give_way();
            }
            body()
        })
    })
}

/// Has `DROP EXTENSION` wait for the transaction before it locks any table. It locks them in
/// another order, so that it and the transaction could wait for each other.
///
/// Any role can hold a lock on the extension, by ALTER … DEPENDS ON EXTENSION. So this does
/// not wait for one. False if the lock was not to be had: the caller must `give_way` then.
pub fn keep_extension() -> bool {
    // SAFETY: a look-up by name and a lock, inside a transaction that releases it.
    unsafe {
        let oid = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        oid != pg_sys::Oid::INVALID
            && pg_sys::ConditionalLockDatabaseObject(pg_sys::ExtensionRelationId, oid, 0, mode)
    }
}

/// Ends a wait for a lock long before PostgreSQL looks for a deadlock, after a second by
/// default: of two transactions that wait for each other, this one fails and is tried again.
pub fn give_way() {
    set_for_now(c"lock_timeout", c"100ms");
}

/// Runs something in a transaction of its own.
pub fn bare_transaction<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    without_snapshot(what, || {
        // SAFETY: pushed and popped within the transaction, or popped with it.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        let done = body()?;
        // SAFETY: as above.
        unsafe { pg_sys::PopActiveSnapshot() };
        Ok(done)
    })
}

/// The same for what reads no table, and may take long: a snapshot holds up who removes rows,
/// and on a standby replay.
pub fn without_snapshot<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    let activity = std::ffi::CString::new(format!("keysmith usage: {what}")).unwrap_or_default();
    let run = AssertUnwindSafe(|| {
        // SAFETY: what a background worker does for a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::pgstat_report_activity(BackendState::STATE_RUNNING, activity.as_ptr());
        }
        Watch::keep(|| {
            let done = body()?;
            // SAFETY: as above.
            unsafe { pg_sys::CommitTransactionCommand() };
            Ok(done)
        })
        .map_err(failed)
    });
    let outcome = pgrx::PgTryBuilder::new(run).catch_others(|error| Err(caught(&error))).execute();
    // SAFETY: after a failure the transaction, if there is one, is rolled back. Then
    // nothing is left of it but the memory in which workers live.
    unsafe {
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(BackendState::STATE_IDLE, std::ptr::null());
    }
    outcome
}

/// Runs something within a transaction that may fail. If it does, it has no effect.
pub fn subtransaction<T>(body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    let body = || Watch::keep(body).map_err(failed);
    in_subtransaction(
        || {
            pgrx::PgTryBuilder::new(AssertUnwindSafe(body))
                .catch_others(|error| Err(caught(&error)))
                .execute()
        },
        std::result::Result::is_ok,
    )
}

/// Runs something within a transaction. It has no effect, and no result, if a unique index
/// has something of it already; other errors are the transaction's.
pub fn unless_twice<T>(body: impl FnOnce() -> T) -> Option<T> {
    in_subtransaction(
        || {
            pgrx::PgTryBuilder::new(AssertUnwindSafe(|| Some(body())))
                .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |_| None)
                .execute()
        },
        Option::is_some,
    )
}

/// Whether the extension is there, as far as can be seen.
pub fn extension_exists() -> bool {
    let exists = bare_transaction("looking for the extension", || {
        // SAFETY: a look-up by name, inside a transaction.
        let oid = unsafe { pg_sys::get_extension_oid(EXTENSION.as_ptr(), true) };
        Ok(oid != pg_sys::Oid::INVALID)
    });
    exists.unwrap_or(true)
}

/// What an error that was caught says.
pub fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().into(),
    }
}

fn failed(error: Error) -> Failure {
    Failure { message: error.message().into(), is_passing: is_passing(error.sqlstate()) }
}

fn caught(error: &CaughtError) -> Failure {
    let is_passing = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            is_passing(report.sql_error_code() as i32)
        }
        CaughtError::RustPanic { .. } => false,
    };
    Failure { message: message(error), is_passing }
}

/// Whether an SQLSTATE is of a class that tells of the server's state, or of others'
/// doings, and not of the data.
fn is_passing(packed: i32) -> bool {
    let character = |place: i32| ((packed >> (6 * place)) & 0x3f) as u8 + b'0';
    matches!(&[character(0), character(1)], b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
}
