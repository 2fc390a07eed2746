//! Statements of ours, run by SPI. Everything they touch is named with its schema,
//! and the search path is one that no one can put anything into: see `role`.
//!
//! They see what is committed, at every isolation level. SPI would read by the snapshot of
//! a transaction at REPEATABLE READ or SERIALIZABLE: an act would check, count and end what
//! was there when the transaction began, and miss what others did since. So each statement
//! has its own snapshot there, as those of foreign keys do, and the transaction's is
//! the cross-check: a row that was changed since is seen, and changing it ends with 40001,
//! or the transaction would see both versions from then on.

use crate::datum;
use crate::error::{Code, Error, Result};
use crate::result_set::ResultSet;
use crate::snapshot::Snapshot;
use crate::text;
use crate::varlena;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid, TransactionId};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::{CStr, CString, c_char, c_int, c_long};

/// A value for `$n`.
#[derive(Clone, Copy)]
pub struct Param {
    oid: Oid,
    datum: Option<Datum>,
}

impl Param {
    pub fn text(value: &str) -> Param {
        Param { oid: pg_sys::TEXTOID, datum: Some(text::datum(value)) }
    }

    pub fn text_or_null(value: Option<&str>) -> Param {
        Param { oid: pg_sys::TEXTOID, datum: value.map(text::datum) }
    }

    /// A text in the database's encoding.
    pub fn server_text(value: Option<&[u8]>) -> Param {
        Param { oid: pg_sys::TEXTOID, datum: value.and_then(|value| Param::bytes(value).datum) }
    }

    pub fn texts(values: &[String]) -> Param {
        let texts = values.iter().map(|value| text::datum(value)).collect();
        Param { oid: pg_sys::TEXTARRAYOID, datum: Some(varlena::text_array(texts)) }
    }

    pub fn uuid(value: &[u8; 16]) -> Param {
        Param { oid: pg_sys::UUIDOID, datum: Some(datum::uuid(value)) }
    }

    pub fn uuid_or_null(value: Option<&[u8; 16]>) -> Param {
        Param { oid: pg_sys::UUIDOID, datum: value.map(datum::uuid) }
    }

    pub fn bytes(value: &[u8]) -> Param {
        Param { oid: pg_sys::BYTEAOID, datum: Some(datum::bytes(value)) }
    }

    pub fn integer(value: Option<i32>) -> Param {
        Param { oid: pg_sys::INT4OID, datum: value.map(Datum::from) }
    }

    pub fn smallint(value: i16) -> Param {
        Param { oid: pg_sys::INT2OID, datum: Some(Datum::from(value)) }
    }

    pub fn smallint_or_null(value: Option<i16>) -> Param {
        Param { oid: pg_sys::INT2OID, datum: value.map(Datum::from) }
    }

    pub fn bigint(value: Option<i64>) -> Param {
        Param { oid: pg_sys::INT8OID, datum: value.map(Datum::from) }
    }

    pub fn boolean(value: bool) -> Param {
        Param { oid: pg_sys::BOOLOID, datum: Some(Datum::from(value)) }
    }

    pub fn boolean_or_null(value: Option<bool>) -> Param {
        Param { oid: pg_sys::BOOLOID, datum: value.map(Datum::from) }
    }

    pub fn timestamp(value: Option<i64>) -> Param {
        Param { oid: pg_sys::TIMESTAMPTZOID, datum: value.map(Datum::from) }
    }

    /// A value that came with the call, passed on as it is.
    pub fn given(oid: Oid, datum: Option<Datum>) -> Param {
        Param { oid, datum }
    }
}

/// Runs `body` with statements at its command. What it returns must be Rust's own,
/// or copied out by `Row::composite`: SPI's memory goes with the session.
pub fn session<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
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

/// Runs a statement and gives its rows, which are good until the next one.
pub fn query(statement: &str, params: &[Param]) -> Result<Rows> {
    run(&text::to_server(statement), params, None)
}

/// Runs a statement of several parts, in the database's encoding: names of roles may be text
/// in none.
pub fn execute_raw(parts: &[&[u8]]) -> Result<()> {
    run(&CString::new(parts.concat()).unwrap_or_default(), &[], None).map(|_| ())
}

/// Runs a statement that only reads, also where nothing else may be done: on a standby,
/// or in parallel mode.
pub fn query_now(statement: &str, params: &[Param]) -> Result<Rows> {
    query_under(&Snapshot::now(), statement, params)
}

/// Runs a statement that only reads, under a snapshot.
pub fn query_under(snapshot: &Snapshot, statement: &str, params: &[Param]) -> Result<Rows> {
    run(&text::to_server(statement), params, Some((snapshot, true)))
}

/// Runs a statement that changes the rows that a snapshot sees.
pub fn change_now(snapshot: &Snapshot, statement: &str, params: &[Param]) -> Result<Rows> {
    run(&text::to_server(statement), params, Some((snapshot, false)))
}

/// Under a snapshot, and whether the statement only reads; or under the transaction's.
fn run(statement: &CStr, params: &[Param], under: Option<(&Snapshot, bool)>) -> Result<Rows> {
    let mut given = Given::of(params);
    let count = params.len() as c_int;
    // SAFETY: a look at the transaction's state.
    let is_under_one_snapshot =
        unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as c_int;
    // SAFETY: inside a session; the arrays have as many elements as is said.
    let execute = || unsafe {
        let (oids, values) = (given.oids.as_mut_ptr(), given.values.as_mut_ptr());
        let (statement, nulls) = (statement.as_ptr(), given.nulls.as_ptr());
        let (snapshot, check, only_reads) = match under {
            Some((snapshot, only_reads)) => {
                (snapshot.registered(), std::ptr::null_mut(), only_reads)
            }
            None if is_under_one_snapshot => {
                (pg_sys::GetLatestSnapshot(), pg_sys::GetTransactionSnapshot(), false)
            }
            None => {
                return pg_sys::SPI_execute_with_args(
                    statement, count, oids, values, nulls, false, 0,
                );
            }
        };
        let plan = pg_sys::SPI_prepare(statement, count, oids);
        if plan.is_null() {
            return pg_sys::SPI_result;
        }
        let code =
            pg_sys::SPI_execute_snapshot(plan, values, nulls, snapshot, check, only_reads, true, 0);
        pg_sys::SPI_freeplan(plan);
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
    // SAFETY: set by the call above.
    unsafe { Ok(Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize }) }
}

/// The rows that a row refers to were looked up before. PostgreSQL checks them once more, under
/// the transaction's snapshot, which may be older than they are.
fn missed() {
    pgrx::ereport!(
        PgLogLevel::ERROR,
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update"
    );
}

/// Runs a statement that only reads, and hands on its rows. It keeps a thousand of them at
/// most. It sees what the calling statement sees.
pub fn each(statement: &str, params: &[Param], mut with: impl FnMut(Row)) -> Result<()> {
    const BATCH: c_long = 1000;
    let statement = text::to_server(statement);
    let mut given = Given::of(params);
    // SAFETY: inside a session; the arrays have as many elements as is said. Rows are freed
    // when they were handed on. After an error the abort closes the cursor.
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
        loop {
            pg_sys::SPI_cursor_fetch(cursor, true, BATCH);
            let rows = Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize };
            rows.iter().for_each(&mut with);
            pg_sys::SPI_freetuptable(rows.table);
            if rows.count == 0 {
                break;
            }
        }
        pg_sys::SPI_cursor_close(cursor);
    }
    Ok(())
}

/// Values as SPI takes them.
struct Given {
    oids: Vec<Oid>,
    values: Vec<Datum>,
    nulls: Vec<c_char>,
}

impl Given {
    fn of(params: &[Param]) -> Given {
        let null = |param: &Param| if param.datum.is_some() { b' ' } else { b'n' } as c_char;
        Given {
            oids: params.iter().map(|param| param.oid).collect(),
            values: params.iter().map(|param| param.datum.unwrap_or(Datum::null())).collect(),
            nulls: params.iter().map(null).collect(),
        }
    }
}

/// Every bound is checked before a row is written. Should one be forgotten, the row
/// with its digest must not be in the error's detail.
fn without_its_row(error: CaughtError) -> c_int {
    if let CaughtError::PostgresError(report) = &error {
        let message = report.message().to_owned();
        pgrx::ereport!(PgLogLevel::ERROR, PgSqlErrorCode::ERRCODE_CHECK_VIOLATION, message);
    }
    error.rethrow()
}

/// Runs a statement that changes rows, and tells how many.
pub fn execute(statement: &str, params: &[Param]) -> Result<usize> {
    query(statement, params).map(|rows| rows.count)
}

pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    pub count: usize,
}

impl Rows {
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }

    /// Returns the rows.
    ///
    /// # Safety
    /// They must be like those that the function is declared to return, and this before the
    /// call returns.
    pub unsafe fn put_into(&self, result: ResultSet) {
        for row in self.iter() {
            // SAFETY: as the caller promises.
            unsafe { row.put_into(result) };
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let count = if self.table.is_null() { 0 } else { self.count };
        (0..count).map(|index| Row { rows: self, index })
    }
}

pub struct Row<'a> {
    rows: &'a Rows,
    index: usize,
}

impl Row<'_> {
    /// Returns the row.
    ///
    /// # Safety
    /// As for `Rows::put_into`.
    pub unsafe fn put_into(&self, result: ResultSet) {
        // SAFETY: the table has this row; else as the caller promises.
        unsafe { result.put_row(*(*self.rows.table).vals.add(self.index)) };
    }

    /// The value of a column, counted from 1.
    pub fn datum(&self, column: usize) -> Option<Datum> {
        let mut is_null = false;
        // SAFETY: the table has this row; SPI checks the column's number.
        let datum = unsafe {
            let tuple = *(*self.rows.table).vals.add(self.index);
            let description = (*self.rows.table).tupdesc;
            pg_sys::SPI_getbinval(tuple, description, column as c_int, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// A value in its text form, whatever its type.
    pub fn text(&self, column: usize) -> Option<String> {
        // SAFETY: as above; SPI gives null or a C string, which is copied.
        unsafe {
            let tuple = *(*self.rows.table).vals.add(self.index);
            let value = pg_sys::SPI_getvalue(tuple, (*self.rows.table).tupdesc, column as c_int);
            if value.is_null() {
                return None;
            }
            let text = text::from_server(CStr::from_ptr(value).to_bytes());
            pg_sys::pfree(value.cast());
            text
        }
    }

    pub fn boolean(&self, column: usize) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() as u8 != 0)
    }

    pub fn timestamp(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn smallint(&self, column: usize) -> Option<i16> {
        self.datum(column).map(|datum| datum.value() as i16)
    }

    pub fn oid(&self, column: usize) -> Option<Oid> {
        self.datum(column).map(|datum| Oid::from(datum.value() as u32))
    }

    pub fn transaction(&self, column: usize) -> Option<TransactionId> {
        self.datum(column).map(|datum| TransactionId::from(datum.value() as u32))
    }

    /// The content of a bytea.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        // SAFETY: asked for columns that are varlenas, which the row holds.
        self.datum(column).map(|datum| unsafe { varlena::bytes(datum) }.to_vec())
    }

    /// The elements of a text[].
    pub fn texts(&self, column: usize) -> Vec<Vec<u8>> {
        let Some(datum) = self.datum(column) else { return Vec::new() };
        // SAFETY: asked for columns that are arrays, which the row holds.
        let array = varlena::ArrayView::new(unsafe { varlena::bytes(datum) });
        array.iter().flatten().map(<[u8]>::to_vec).collect()
    }

    pub fn uuid(&self, column: usize) -> Option<[u8; 16]> {
        // SAFETY: asked for columns that are uuids: a pointer to 16 bytes.
        self.datum(column).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// A value of variable length, such as a row, copied to the memory context from
    /// which the session was begun. A short one lies packed in its tuple: readers of
    /// rows need it plain.
    pub fn transferred(&self, column: usize) -> Option<Datum> {
        // SAFETY: asked for columns of variable length; SPI copies them.
        self.datum(column).map(|datum| unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            pg_sys::SPI_datumTransfer(Datum::from(plain), false, -1)
        })
    }
}
