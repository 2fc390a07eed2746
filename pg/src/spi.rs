//! Statements of ours, run by SPI. Everything they touch is named with its schema,
//! and the search path is one that no one can put anything into: see `role`.
//!
//! They see what is committed, at every isolation level. SPI would read by the snapshot of
//! a transaction at REPEATABLE READ or SERIALIZABLE: an act would check, count and end what
//! was there when the transaction began, and miss what others did since. So each statement
//! has its own snapshot there, as those of foreign keys do, and the transaction's is
//! the cross-check: a row that was changed since is seen, and changing it ends with 40001,
//! or the transaction would see both versions from then on.

use crate::composite::Copied;
use crate::error::{Code, Error, Result};
use crate::jsonb::Jsonb;
use crate::result_set::ResultSet;
use crate::snapshot::Snapshot;
use crate::{major, text, transaction, varlena};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid, TransactionId};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::{CStr, CString, c_char, c_int, c_long};

/// A value for `$n`.
pub use crate::cell::Cell as Param;

/// Runs `body` with statements at its command. What it returns must be Rust's own,
/// or copied out by `Row::transferred`: SPI's memory goes with the session.
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

/// Runs a statement that changes rows, and tells how many.
pub fn execute(statement: &str, params: &[Param]) -> Result<usize> {
    query(statement, params, Rows::count)
}

/// Runs a statement, and hands on its rows. They are there as long as `with` runs.
pub fn query<T>(statement: &str, params: &[Param], with: impl FnOnce(&Rows) -> T) -> Result<T> {
    run(&text::to_server(statement), params, None, with)
}

/// Runs a statement, and reads its first row.
pub fn first<T>(
    statement: &str,
    params: &[Param],
    read: impl FnOnce(Row) -> Option<T>,
) -> Result<Option<T>> {
    query(statement, params, |rows| rows.first().and_then(read))
}

/// Runs a statement, and reads its rows, all of them.
pub fn all<T>(
    statement: &str,
    params: &[Param],
    read: impl FnMut(Row) -> Option<T>,
) -> Result<Vec<T>> {
    query(statement, params, |rows| rows.iter().filter_map(read).collect())
}

/// Runs a statement of several parts, in the database's encoding: names of roles may be text
/// in none.
pub fn execute_raw(parts: &[&[u8]]) -> Result<()> {
    run(&CString::new(parts.concat()).unwrap_or_default(), &[], None, |_| ())
}

/// Runs a statement that only reads, also where nothing else may be done: on a standby,
/// or in parallel mode.
pub fn query_now<T>(statement: &str, params: &[Param], with: impl FnOnce(&Rows) -> T) -> Result<T> {
    query_under(&Snapshot::now(), statement, params, with)
}

/// Runs a statement that only reads, under a snapshot.
pub fn query_under<T>(
    snapshot: &Snapshot,
    statement: &str,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    run(&text::to_server(statement), params, Some((snapshot, true)), with)
}

/// Runs a statement that changes the rows that a snapshot sees.
pub fn change_now<T>(
    snapshot: &Snapshot,
    statement: &str,
    params: &[Param],
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
    run(&text::to_server(statement), params, Some((snapshot, false)), with)
}

/// Under a snapshot, and whether the statement only reads; or under the transaction's.
fn run<T>(
    statement: &CStr,
    params: &[Param],
    under: Option<(&Snapshot, bool)>,
    with: impl FnOnce(&Rows) -> T,
) -> Result<T> {
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
    Ok(with(&Rows::made()))
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
    // SAFETY: inside a session, or PostgreSQL raises an error; the arrays have as many elements
    // as is said. Rows are freed when they were handed on. After an error the abort closes
    // the cursor. It is looked up each time, as statements can close it.
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
            pg_sys::SPI_freetuptable(rows.table);
            if rows.count == 0 {
                break;
            }
        }
        pg_sys::SPI_cursor_close(pg_sys::SPI_cursor_find(name.as_ptr()));
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
        let null = |param: &Param| if param.is_null() { b'n' } else { b' ' } as c_char;
        Given {
            oids: params.iter().map(Param::kind).collect(),
            values: params.iter().map(|param| param.datum().unwrap_or(Datum::null())).collect(),
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

/// What a statement gave. SPI keeps it until the session ends, or until the subtransaction is
/// rolled back in which the statement ran: `run` and `each` hand it on before either can be.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

impl Rows {
    /// Of the statement that was just run.
    fn made() -> Rows {
        // SAFETY: set by SPI.
        unsafe { Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize } }
    }

    /// How many rows the statement gave or changed.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let count = if self.table.is_null() { 0 } else { self.count };
        (0..count).map(|index| Row { rows: self, index })
    }

    /// Returns the rows.
    pub fn put_into(&self, result: ResultSet) {
        self.iter().for_each(|row| row.put_into(result));
    }
}

/// The accessors raise an error for a column of another type than they give, and for one that
/// is not there.
pub struct Row<'a> {
    rows: &'a Rows,
    index: usize,
}

impl Row<'_> {
    fn description(&self) -> pg_sys::TupleDesc {
        // SAFETY: a statement that gives rows has a table.
        unsafe { (*self.rows.table).tupdesc }
    }

    fn tuple(&self) -> pg_sys::HeapTuple {
        // SAFETY: the table has this row.
        unsafe { *(*self.rows.table).vals.add(self.index) }
    }

    /// Returns the row.
    pub fn put_into(&self, result: ResultSet) {
        // SAFETY: the row is of the table, which has the description.
        unsafe { result.put_tuple(self.tuple(), major::attributes(self.description())) };
    }

    /// The value of a column, counted from 1, of one of these types.
    fn datum(&self, column: usize, kinds: &[Oid]) -> Option<Datum> {
        self.of(column, |attribute| kinds.contains(&attribute.atttypid))
    }

    fn of(
        &self,
        column: usize,
        is_expected: impl FnOnce(&pg_sys::FormData_pg_attribute) -> bool,
    ) -> Option<Datum> {
        // SAFETY: the description is complete, and lives as long as the table.
        let columns = unsafe { major::attributes(self.description()) };
        let attribute = column.checked_sub(1).and_then(|index| columns.get(index));
        if !attribute.is_some_and(is_expected) {
            pgrx::error!("column {column} of a statement is of another type");
        }
        let mut is_null = false;
        // SAFETY: the row has the column.
        let datum = unsafe {
            let column = column as c_int;
            pg_sys::SPI_getbinval(self.tuple(), self.description(), column, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// A value in its text form, whatever its type.
    pub fn text(&self, column: usize) -> Option<String> {
        // SAFETY: SPI gives null or a C string, which is copied; null if there is no such column.
        unsafe {
            let value = pg_sys::SPI_getvalue(self.tuple(), self.description(), column as c_int);
            if value.is_null() {
                return None;
            }
            let text = text::from_server(CStr::from_ptr(value).to_bytes());
            pg_sys::pfree(value.cast());
            text
        }
    }

    pub fn boolean(&self, column: usize) -> bool {
        self.datum(column, &[pg_sys::BOOLOID]).is_some_and(|datum| datum.value() as u8 != 0)
    }

    pub fn timestamp(&self, column: usize) -> Option<i64> {
        self.datum(column, &[pg_sys::TIMESTAMPTZOID]).map(|datum| datum.value() as i64)
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column, &[pg_sys::INT8OID]).map(|datum| datum.value() as i64)
    }

    pub fn smallint(&self, column: usize) -> Option<i16> {
        self.datum(column, &[pg_sys::INT2OID]).map(|datum| datum.value() as i16)
    }

    pub fn oid(&self, column: usize) -> Option<Oid> {
        self.datum(column, &[pg_sys::OIDOID]).map(|datum| Oid::from(datum.value() as u32))
    }

    pub fn transaction(&self, column: usize) -> Option<TransactionId> {
        let datum = self.datum(column, &[pg_sys::XIDOID]);
        datum.map(|datum| TransactionId::from(datum.value() as u32))
    }

    /// The content of a bytea or a text.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        let datum = self.datum(column, &[pg_sys::BYTEAOID, pg_sys::TEXTOID]);
        // SAFETY: values of these types are varlenas, which the row holds.
        datum.map(|datum| unsafe { varlena::bytes(datum) }.to_vec())
    }

    /// The elements of a text[].
    pub fn texts(&self, column: usize) -> Vec<Vec<u8>> {
        let datum = self.datum(column, &[pg_sys::TEXTARRAYOID]);
        let Some(datum) = datum else { return Vec::new() };
        // SAFETY: an array is a varlena, which the row holds.
        let array = varlena::ArrayView::new(unsafe { varlena::bytes(datum) });
        array.iter().flatten().map(<[u8]>::to_vec).collect()
    }

    pub fn uuid(&self, column: usize) -> Option<[u8; 16]> {
        // SAFETY: a uuid is a pointer to 16 bytes, which the row holds.
        let read = |datum: Datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() };
        self.datum(column, &[pg_sys::UUIDOID]).map(read)
    }

    /// A row of a type, as a value of its own.
    pub fn composite(&self, column: usize) -> Option<Copied> {
        // SAFETY: a look-up of a type.
        let is_row = |kind| unsafe { pg_sys::get_typtype(kind) as u8 == pg_sys::TYPTYPE_COMPOSITE };
        let datum = self.of(column, |attribute| is_row(attribute.atttypid));
        // SAFETY: a row of a type.
        datum.map(|datum| unsafe { Copied::new(datum) })
    }

    pub fn jsonb(&self, column: usize) -> Option<Jsonb<'_>> {
        let datum = self.of(column, |attribute| attribute.atttypid == pg_sys::JSONBOID);
        // SAFETY: a jsonb, which the row holds; what is fetched lives as long as the session.
        datum.map(|datum| unsafe {
            Jsonb::new(Datum::from(pg_sys::pg_detoast_datum(datum.cast_mut_ptr())))
        })
    }

    /// A value of variable length, such as a row, copied to the memory context from
    /// which the session was begun. A short one lies packed in its tuple: readers of
    /// rows need it plain.
    pub fn transferred(&self, column: usize) -> Option<Datum> {
        let datum = self.of(column, |attribute| attribute.attlen == -1);
        // SAFETY: a varlena, which the row holds. SPI copies it.
        datum.map(|datum| unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            pg_sys::SPI_datumTransfer(Datum::from(plain), false, -1)
        })
    }
}
