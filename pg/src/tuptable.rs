//! The rows that a statement returned by SPI.

use crate::composite::Copied;
use crate::jsonb::Jsonb;
use crate::result_set::ResultSet;
use crate::{major, text, varlena};
use pgrx::pg_sys::{self, Datum, Oid, TransactionId};
use std::ffi::{CStr, c_int};

/// The result of a statement. SPI keeps it until the session ends, or until the statement's
/// subtransaction is rolled back. `run` and `each` pass it on before either can happen.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

impl Rows {
    /// The rows of the statement that was just run.
    pub(crate) fn made() -> Rows {
        // SAFETY: set by SPI.
        unsafe { Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize } }
    }

    /// Frees the rows.
    pub(crate) fn free(self) {
        // SAFETY: the table is SPI's, and no row is borrowed any more.
        unsafe { pg_sys::SPI_freetuptable(self.table) };
    }

    /// How many rows the statement returned or changed.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn first(&self) -> Option<ResultRow<'_>> {
        self.iter().next()
    }

    pub fn iter(&self) -> impl Iterator<Item = ResultRow<'_>> {
        let count = if self.table.is_null() { 0 } else { self.count };
        (0..count).map(|index| ResultRow { rows: self, index })
    }

    /// Adds the rows to a function's result.
    pub fn put_into(&self, result: ResultSet) {
        self.iter().for_each(|row| row.put_into(result));
    }
}

/// The accessors raise an error if the column does not exist or has another type.
pub struct ResultRow<'a> {
    rows: &'a Rows,
    index: usize,
}

impl ResultRow<'_> {
    fn description(&self) -> pg_sys::TupleDesc {
        // SAFETY: a statement that returns rows has a tuple table.
        unsafe { (*self.rows.table).tupdesc }
    }

    fn tuple(&self) -> pg_sys::HeapTuple {
        // SAFETY: the table has this row.
        unsafe { *(*self.rows.table).vals.add(self.index) }
    }

    /// Adds the row to a function's result.
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
        // SAFETY: SPI returns null or a C string, which is copied; null if there is no such column.
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

    pub fn tid(&self, column: usize) -> Option<pg_sys::ItemPointerData> {
        let datum = self.datum(column, &[pg_sys::TIDOID])?;
        // SAFETY: a tid is a pointer to it, which the row holds.
        Some(unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() })
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

    /// A composite value, copied.
    pub fn composite(&self, column: usize) -> Option<Copied> {
        // SAFETY: a syscache look-up.
        let is_row = |kind| unsafe { pg_sys::get_typtype(kind) as u8 == pg_sys::TYPTYPE_COMPOSITE };
        let datum = self.of(column, |attribute| is_row(attribute.atttypid));
        // SAFETY: the datum is a composite value.
        datum.map(|datum| unsafe { Copied::new(datum) })
    }

    pub fn jsonb(&self, column: usize) -> Option<Jsonb<'_>> {
        let datum = self.of(column, |attribute| attribute.atttypid == pg_sys::JSONBOID);
        // SAFETY: a jsonb, which the row holds. If it is detoasted, the copy lives as long as the
        // SPI session.
        datum.map(|datum| unsafe {
            Jsonb::new(Datum::from(pg_sys::pg_detoast_datum(datum.cast_mut_ptr())))
        })
    }

    /// A value of variable length, such as a composite value, copied to the memory context that was
    /// current before the SPI session. A short value has a packed header in its tuple, but the
    /// readers of composite values need a plain one.
    pub fn transferred(&self, column: usize) -> Option<Datum> {
        let datum = self.of(column, |attribute| attribute.attlen == -1);
        // SAFETY: a varlena, which the row holds. SPI copies it.
        datum.map(|datum| unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            pg_sys::SPI_datumTransfer(Datum::from(plain), false, -1)
        })
    }
}
