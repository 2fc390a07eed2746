//! The set of rows that a function returns.

use crate::call::Call;
use crate::composite::Composite;
use crate::major;
use pgrx::pg_sys;
use std::marker::PhantomData;

/// A cell of a row.
pub use crate::cell::Cell;

/// It lives as long as the call.
#[derive(Clone, Copy)]
pub struct ResultSet<'a> {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
    _call: PhantomData<&'a Call>,
}

impl<'a> ResultSet<'a> {
    /// Of a function that returns rows.
    pub fn of(call: &'a Call) -> ResultSet<'a> {
        ResultSet::begin(call, 0)
    }

    /// Of a function that returns values of a type that is no row.
    pub fn of_values(call: &'a Call) -> ResultSet<'a> {
        ResultSet::begin(call, pg_sys::MAT_SRF_USE_EXPECTED_DESC)
    }

    fn begin(call: &'a Call, flags: u32) -> ResultSet<'a> {
        // SAFETY: PostgreSQL raises an error where the caller takes no set, or where the
        // function returns no rows. What it makes here lives as long as the query.
        unsafe {
            let info = (*call.frame()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let is_set = !info.is_null() && (*info).type_ == pg_sys::NodeTag::T_ReturnSetInfo;
            if flags != 0 && (!is_set || (*info).expectedDesc.is_null()) {
                pgrx::error!("the function is called where no set of values is expected");
            }
            pg_sys::InitMaterializedSRF(call.frame(), flags);
            let (store, description) = ((*info).setResult, (*info).setDesc);
            ResultSet { store, description, _call: PhantomData }
        }
    }

    /// What its rows are like.
    pub fn columns(&self) -> &'a [pg_sys::FormData_pg_attribute] {
        // SAFETY: the description is complete, and lives as long as the call.
        unsafe { major::attributes(self.description) }
    }

    /// The type of its rows.
    pub fn row_type(&self) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { (*self.description).tdtypeid }
    }

    /// Whether rows with columns of these types are rows of it.
    fn takes(&self, kinds: impl ExactSizeIterator<Item = pg_sys::Oid>) -> bool {
        let columns = self.columns();
        columns.len() == kinds.len()
            && columns
                .iter()
                .zip(kinds)
                .all(|(column, kind)| column.atttypid == kind && !column.attisdropped)
    }

    /// Adds a row, of which nothing is kept.
    pub fn put<const COLUMNS: usize>(&self, cells: [Cell; COLUMNS]) {
        // The type may have been altered.
        if !self.takes(cells.iter().map(Cell::kind)) {
            unfit();
        }
        let data = cells.map(|cell| cell.datum());
        let mut values = data.map(|datum| datum.unwrap_or(pg_sys::Datum::null()));
        let mut nulls = data.map(|datum| datum.is_none());
        // SAFETY: the cells are of the columns' types, as many as these are; the row is copied.
        unsafe {
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::tuplestore_putvalues(self.store, self.description, values, nulls);
        }
    }

    /// Adds a row of the set's type.
    pub fn put_composite(&self, row: Composite<'_>) {
        if self.row_type() != row.kind() {
            unfit();
        }
        // SAFETY: the row is of the type, and there; it is copied.
        unsafe { pg_sys::tuplestore_puttuple(self.store, &mut row.tuple()) };
    }

    /// Adds a row that there is already.
    ///
    /// # Safety
    /// The row must be there, and have the columns of this description.
    pub(crate) unsafe fn put_tuple(
        &self,
        row: pg_sys::HeapTuple,
        columns: &[pg_sys::FormData_pg_attribute],
    ) {
        if !self.takes(columns.iter().map(|column| column.atttypid)) {
            unfit();
        }
        // SAFETY: as the caller promises, and of the columns' types; it is copied.
        unsafe { pg_sys::tuplestore_puttuple(self.store, row) };
    }
}

#[cold]
fn unfit() {
    pgrx::error!("the library does not fit the rows of this function");
}
