//! The set of rows that a function returns.

use crate::call::Call;
use pgrx::pg_sys::{self, Datum};

#[derive(Clone, Copy)]
pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
}

impl ResultSet {
    /// Of a function that returns rows.
    ///
    /// # Safety
    /// The function must be declared to return a set.
    pub unsafe fn of(call: &Call) -> ResultSet {
        // SAFETY: as the caller promises.
        unsafe { ResultSet::begin(call, 0) }
    }

    /// Of a function that returns values of a type that is no row.
    ///
    /// # Safety
    /// As for `of`.
    pub unsafe fn of_values(call: &Call) -> ResultSet {
        // SAFETY: as the caller promises.
        unsafe { ResultSet::begin(call, pg_sys::MAT_SRF_USE_EXPECTED_DESC) }
    }

    unsafe fn begin(call: &Call, flags: u32) -> ResultSet {
        // SAFETY: PostgreSQL raises an error where a set can't be taken. What it makes here
        // lives as long as the call.
        unsafe {
            pg_sys::InitMaterializedSRF(call.frame(), flags);
            let info = (*call.frame()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            ResultSet { store: (*info).setResult, description: (*info).setDesc }
        }
    }

    /// What its rows are like; it lives as long as the call.
    pub fn description(&self) -> pg_sys::TupleDesc {
        self.description
    }

    /// Adds a row, of which nothing is kept.
    ///
    /// # Safety
    /// The cells must be of the types that the function is declared with, all of them, and
    /// this before the call returns.
    pub unsafe fn put<const COLUMNS: usize>(self, cells: [Option<Datum>; COLUMNS]) {
        let mut values = cells.map(|cell| cell.unwrap_or(Datum::null()));
        let mut nulls = cells.map(|cell| cell.is_none());
        // SAFETY: as the caller promises; the row is copied. The type may have been altered.
        unsafe {
            if (*self.description).natts as usize != COLUMNS {
                pgrx::error!("the library does not fit the rows of this function");
            }
            pg_sys::tuplestore_putvalues(
                self.store,
                self.description,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }

    /// Adds a row that there is already.
    ///
    /// # Safety
    /// The row must be like those that the function is declared to return, and this before
    /// the call returns.
    pub unsafe fn put_row(self, row: pg_sys::HeapTuple) {
        // SAFETY: as the caller promises; the row is copied.
        unsafe { pg_sys::tuplestore_puttuple(self.store, row) };
    }
}
