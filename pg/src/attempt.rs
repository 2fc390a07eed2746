//! Transactions and subtransactions that may fail, and the reasons of their failures.

use crate::error::{Error, Result, message_of};
use crate::memory::{self, Watch};
use crate::transaction::{in_subtransaction, is_in_progress};
use crate::worker;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, BackendState};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::ptr::null;

/// Why a transaction or subtransaction failed.
pub struct Failure {
    pub sqlstate: Sqlstate,
    pub message: String,
    pub detail: Option<String>,
    /// The cause is temporary: the same work may succeed later.
    pub is_passing: bool,
}

/// The result of a transaction or subtransaction that may fail.
pub type Outcome<T> = std::result::Result<T, Failure>;

/// Runs `body` in a new transaction. Only for background workers, and only while no transaction is
/// in progress. Meanwhile `pg_stat_activity` shows `activity`.
pub fn transaction<T>(activity: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    if !worker::is_one() || is_in_progress() {
        pgrx::error!("keysmith begins transactions only in background workers");
    }
    let activity = CString::new(activity).unwrap_or_default();
    let run = AssertUnwindSafe(|| {
        // SAFETY: the calls with which a background worker starts a transaction. No transaction is
        // in progress.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::pgstat_report_activity(BackendState::STATE_RUNNING, activity.as_ptr());
        }
        Watch::keep(|| {
            let done = body()?;
            // SAFETY: commits the transaction that was started above.
            unsafe { pg_sys::CommitTransactionCommand() };
            Ok(done)
        })
        .map_err(failed)
    });
    let outcome = pgrx::PgTryBuilder::new(run).catch_others(|error| Err(caught(&error))).execute();
    // SAFETY: AbortCurrentTransaction may be called in any state, even if no transaction was
    // started. Then TopMemoryContext, which is never deleted, is made current.
    unsafe {
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(BackendState::STATE_IDLE, null());
    }
    outcome
}

/// Runs `body` in a subtransaction. If it fails, the subtransaction is rolled back.
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

/// Runs `body` in a subtransaction likewise. The cancellation of the statement is raised as usual.
pub fn unless_canceled<T>(body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    let body = || Watch::keep(body).map_err(failed);
    in_subtransaction(
        || {
            pgrx::PgTryBuilder::new(AssertUnwindSafe(body))
                .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| error.rethrow())
                .catch_others(|error| Err(caught(&error)))
                .execute()
        },
        std::result::Result::is_ok,
    )
}

/// Runs `body` in a subtransaction. If it violates a unique index, the subtransaction is rolled
/// back and the result is `None`. Other errors are raised as usual.
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

fn failed(error: Error) -> Failure {
    let sqlstate = unpacked(error.sqlstate());
    Failure {
        sqlstate,
        message: error.message().into(),
        detail: error.detail_text().map(String::from),
        is_passing: is_passing(sqlstate),
    }
}

fn caught(error: &CaughtError) -> Failure {
    let (report, is_panic) = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => (report, false),
        CaughtError::RustPanic { ereport, .. } => (ereport, true),
    };
    let sqlstate = unpacked(memory::code_of(error));
    Failure {
        sqlstate,
        message: message_of(error),
        detail: report.detail().map(String::from),
        is_passing: !is_panic && is_passing(sqlstate),
    }
}

/// The five characters of an SQLSTATE.
pub type Sqlstate = [u8; 5];

/// The characters of an SQLSTATE in PostgreSQL's packing: six bits each.
fn unpacked(packed: i32) -> Sqlstate {
    [0, 1, 2, 3, 4].map(|place| ((packed >> (6 * place)) & 0x3f) as u8 + b'0')
}

/// Whether the class of an SQLSTATE describes the state of the server, or a conflict with other
/// sessions, and not a fault of the data.
fn is_passing(sqlstate: Sqlstate) -> bool {
    matches!(&sqlstate[..2], b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
}
