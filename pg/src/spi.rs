//! Runs our statements by SPI. They name all objects with their schemas, and no role can create
//! objects in their search path: see `role`.
//!
//! At every isolation level they see what is committed now. In a transaction at REPEATABLE READ or
//! SERIALIZABLE, SPI would use the transaction's snapshot, and an act would miss what others have
//! committed since the transaction began. So each statement gets a new snapshot there, as the
//! statements of foreign keys do. The transaction's snapshot is the cross-check: changing a row
//! that was changed since then fails with error 40001. Otherwise the transaction would see both
//! versions.

use crate::error::{Code, Error, Result};
use crate::snapshot::Snapshot;
use crate::{text, transaction};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::{CStr, CString, c_char, c_int, c_long};

pub use crate::saved_plan::{Saved, saved};
pub use crate::tuptable::{ResultRow, Rows};

/// A value for `$n`.
pub use crate::cell::Cell as Param;

/// A statement: a text that is parsed and planned each time, or one whose plan is saved.
#[derive(Clone, Copy)]
pub enum Statement<'a> {
    Text(&'a str),
    Saved(&'static Saved),
}

impl<'a> From<&'a str> for Statement<'a> {
    fn from(text: &'a str) -> Self {
        Statement::Text(text)
    }
}

impl<'a> From<&'a String> for Statement<'a> {
    fn from(text: &'a String) -> Self {
        Statement::Text(text)
    }
}

impl From<&'static Saved> for Statement<'_> {
    fn from(saved: &'static Saved) -> Self {
        Statement::Saved(saved)
    }
}

/// Runs `body`, which can run statements. Its result must be in Rust's memory, or copied by
/// `ResultRow::transferred`: SPI frees its own memory with the session.
pub fn session<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    transaction::must_be_in_progress();
    // SAFETY: a session is finished whether the body fails or not. An error that
    // PostgreSQL raises unwinds to the caller's abort, which ends the session.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as c_int {
            return Err(Error::new(Code::Installation, "SPI_connect failed"));
        }
        let result = body();
        pg_sys::SPI_finish();
        result
    }
}

/// Runs a statement that changes rows, and returns their number.
pub fn execute<'a>(statement: impl Into<Statement<'a>>, params: &[Param]) -> Result<usize> {
    query(statement, params, Rows::count)
}

/// Runs a statement, and passes its rows to `with`. They are valid while `with` runs.
pub fn query<'a, T>(
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    run(statement.into(), params, None, with)
}

/// Runs a statement, and reads its first row.
pub fn first<'a, T>(
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    read: impl FnOnce(ResultRow) -> Option<T>,
) -> Result<Option<T>> {
    query(statement, params, |rows| rows.first().and_then(read))
}

/// Runs a statement, and reads its rows, all of them.
pub fn all<'a, T>(
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    read: impl FnMut(ResultRow) -> Option<T>,
) -> Result<Vec<T>> {
    query(statement, params, |rows| rows.iter().filter_map(read).collect())
}

/// Runs a statement that is given in parts, as bytes: the name of a role may be invalid in the
/// database's encoding.
pub fn execute_raw(parts: &[&[u8]]) -> Result<()> {
    let statement = CString::new(parts.concat()).unwrap_or_default();
    execute_given(Source::Text(&statement), Given::of(&[]), None, |_| ())
}

/// Runs a statement that only reads, under a new snapshot. This also works on a standby and in
/// parallel mode.
pub fn query_now<'a, T>(
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    query_under(&Snapshot::now(), statement, params, with)
}

/// Runs a statement that only reads, under a snapshot.
pub fn query_under<'a, T>(
    snapshot: &Snapshot,
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    run(statement.into(), params, Some((snapshot, true)), with)
}

/// Runs a statement that changes the rows that a snapshot sees.
pub fn change_now<'a, T>(
    snapshot: &Snapshot,
    statement: impl Into<Statement<'a>>,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    run(statement.into(), params, Some((snapshot, false)), with)
}

/// The snapshot for a statement, and whether the statement only reads; `None` for the transaction's
/// snapshot.
type Under<'a> = Option<(&'a Snapshot, bool)>;

fn run<T>(
    statement: Statement,
    params: &[Param],
    under: Under,
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    let mut given = Given::of(params);
    match statement {
        Statement::Text(text) => {
            execute_given(Source::Text(&text::to_server(text)), given, under, with)
        }
        Statement::Saved(saved) => {
            let plan = saved.plan(&mut given.oids)?;
            execute_given(Source::Saved(plan), given, under, with)
        }
    }
}

/// The statement to execute: a text in the database's encoding, or a plan for values of the given
/// types.
#[derive(Clone, Copy)]
enum Source<'a> {
    Text(&'a CStr),
    Saved(pg_sys::SPIPlanPtr),
}

fn execute_given<T>(
    source: Source,
    mut given: Given,
    under: Under,
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    let count = given.oids.len() as c_int;
    // SAFETY: reads the isolation level of the transaction.
    let is_under_one_snapshot =
        unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as c_int;
    // SAFETY: inside a session; the arrays have one element per parameter. A saved plan is for
    // parameters of their types.
    let execute = || unsafe {
        let (oids, values) = (given.oids.as_mut_ptr(), given.values.as_mut_ptr());
        let nulls = given.nulls.as_ptr();
        let (snapshot, check, only_reads) = match under {
            Some((snapshot, only_reads)) => {
                (snapshot.registered(), std::ptr::null_mut(), only_reads)
            }
            None if is_under_one_snapshot => {
                (pg_sys::GetLatestSnapshot(), pg_sys::GetTransactionSnapshot(), false)
            }
            None => {
                return match source {
                    Source::Saved(plan) => pg_sys::SPI_execute_plan(plan, values, nulls, false, 0),
                    Source::Text(text) => pg_sys::SPI_execute_with_args(
                        text.as_ptr(),
                        count,
                        oids,
                        values,
                        nulls,
                        false,
                        0,
                    ),
                };
            }
        };
        let plan = match source {
            Source::Saved(plan) => plan,
            Source::Text(text) => pg_sys::SPI_prepare(text.as_ptr(), count, oids),
        };
        if plan.is_null() {
            return pg_sys::SPI_result;
        }
        let code =
            pg_sys::SPI_execute_snapshot(plan, values, nulls, snapshot, check, only_reads, true, 0);
        if matches!(source, Source::Text(_)) {
            pg_sys::SPI_freeplan(plan);
        }
        code
    };
    let code = pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(execute))
        .catch_when(PgSqlErrorCode::ERRCODE_CHECK_VIOLATION, without_its_row)
        .catch_when(PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION, |error| {
            if is_under_one_snapshot {
                missed();
            }
            error.rethrow()
        })
        .execute();
    if code < 0 {
        return Err(Error::new(Code::Installation, format!("SPI failed with code {code}")));
    }
    Ok(with(&Rows::made()))
}

/// The caller has found the rows that the new row refers to. PostgreSQL checks them again under
/// the transaction's snapshot, which may be older than these rows.
fn missed() {
    pgrx::ereport!(
        PgLogLevel::ERROR,
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update"
    );
}

/// Runs a statement that only reads, and passes each row to `with`. It fetches at most a thousand
/// rows at a time. It sees what the calling statement sees.
pub fn each(statement: &str, params: &[Param], mut with: impl FnMut(ResultRow)) -> Result<()> {
    const BATCH: c_long = 1000;
    let statement = text::to_server(statement);
    let mut given = Given::of(params);
    // SAFETY: inside a session, or PostgreSQL raises an error; the arrays have one element per
    // parameter. Rows are freed after `with` has seen them. After an error the abort closes the
    // cursor. It is looked up each time, as statements can close it.
    unsafe {
        let cursor = pg_sys::SPI_cursor_open_with_args(
            std::ptr::null(),
            statement.as_ptr(),
            params.len() as c_int,
            given.oids.as_mut_ptr(),
            given.values.as_mut_ptr(),
            given.nulls.as_ptr(),
            true,
            0,
        );
        let name = CStr::from_ptr((*cursor).name).to_owned();
        loop {
            let cursor = pg_sys::SPI_cursor_find(name.as_ptr());
            pg_sys::SPI_cursor_fetch(cursor, true, BATCH);
            let rows = Rows::made();
            rows.iter().for_each(&mut with);
            let count = rows.count();
            rows.free();
            if count == 0 {
                break;
            }
        }
        pg_sys::SPI_cursor_close(pg_sys::SPI_cursor_find(name.as_ptr()));
    }
    Ok(())
}

/// The same, under a snapshot.
pub fn each_under(
    snapshot: &Snapshot,
    statement: &str,
    params: &[Param],
    with: impl FnMut(ResultRow),
) -> Result<()> {
    // SAFETY: the snapshot is registered; it is popped again, or by the abort after an error.
    unsafe {
        pg_sys::PushActiveSnapshot(snapshot.registered());
        let result = each(statement, params, with);
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Values as SPI takes them.
struct Given {
    oids: Vec<Oid>,
    values: Vec<Datum>,
    nulls: Vec<c_char>,
}

impl Given {
    fn of(params: &[Param]) -> Given {
        let null = |param: &Param| if param.is_null() { b'n' } else { b' ' } as c_char;
        Given {
            oids: params.iter().map(Param::kind).collect(),
            values: params.iter().map(|param| param.datum().unwrap_or(Datum::null())).collect(),
            nulls: params.iter().map(null).collect(),
        }
    }
}

/// Our code checks every bound before it writes a row. If a check is missing, the error's detail
/// must not show the row with its digest.
fn without_its_row(error: CaughtError) -> c_int {
    if let CaughtError::PostgresError(report) = &error {
        let message = report.message().to_owned();
        pgrx::ereport!(PgLogLevel::ERROR, PgSqlErrorCode::ERRCODE_CHECK_VIOLATION, message);
    }
    error.rethrow()
}
