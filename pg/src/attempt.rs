//! Transactions and subtransactions that may fail, and why they did.

use crate::error::{Error, Result, message_of};
use crate::memory::Watch;
use crate::transaction::{in_subtransaction, is_in_progress};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, BackendState};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::ptr::null;

/// Why one failed.
pub struct Failure {
    pub message: String,
    /// It may pass: nothing is wrong with what was to be done.
    pub is_passing: bool,
}

pub type Outcome<T> = std::result::Result<T, Failure>;

/// Runs something in a transaction of its own. Only for background workers, outside of any
/// transaction. The server shows the activity meanwhile.
pub fn transaction<T>(activity: &str, body: impl FnOnce() -> Result<T>) -> Outcome<T> {
    // SAFETY: reads a pointer that is set in background workers.
    if unsafe { pg_sys::MyBgworkerEntry }.is_null() || is_in_progress() {
        pgrx::error!("keysmith begins transactions of its own in workers alone");
    }
    let activity = CString::new(activity).unwrap_or_default();
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
        pg_sys::pgstat_report_activity(BackendState::STATE_IDLE, null());
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
    Failure { message: message_of(error), is_passing }
}

/// Whether an SQLSTATE is of a class that tells of the server's state, or of others'
/// doings, and not of the data.
fn is_passing(packed: i32) -> bool {
    let character = |place: i32| ((packed >> (6 * place)) & 0x3f) as u8 + b'0';
    matches!(&[character(0), character(1)], b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58")
}
