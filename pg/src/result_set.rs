//! The set of rows that a function returns.

use crate::call::Call;
use crate::composite::Composite;
use crate::major;
use pgrx::pg_sys;
use std::marker::PhantomData;

/// A cell of a row.
pub use crate::cell::Cell;

/// The rows that a function returns, in a tuplestore. It lives as long as the call.
#[derive(Clone, Copy)]
pub struct ResultSet<'a> {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
    _call: PhantomData<&'a Call>,
}

impl<'a> ResultSet<'a> {
    /// The result of a function that returns rows of a composite type.
    pub fn of(call: &'a Call) -> ResultSet<'a> {
        ResultSet::begin(call, 0)
    }

    /// The result of a function that returns values of another type.
    pub fn of_values(call: &'a Call) -> ResultSet<'a> {
        ResultSet::begin(call, pg_sys::MAT_SRF_USE_EXPECTED_DESC)
    }

    fn begin(call: &'a Call, flags: u32) -> ResultSet<'a> {
        // SAFETY: PostgreSQL raises an error if the caller accepts no set, or if the function
        // returns no rows. The tuplestore and the description live as long as the query.
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

    /// The columns of its rows.
    pub fn columns(&self) -> &'a [pg_sys::FormData_pg_attribute] {
        // SAFETY: the description is complete, and lives as long as the call.
        unsafe { major::attributes(self.description) }
    }

    /// The OID of the type of its rows.
    pub fn row_type(&self) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { (*self.description).tdtypeid }
    }

    /// Whether its rows have exactly columns of these types.
    fn takes(&self, kinds: impl ExactSizeIterator<Item = pg_sys::Oid>) -> bool {
        let columns = self.columns();
        columns.len() == kinds.len()
            && columns
                .iter()
                .zip(kinds)
                .all(|(column, kind)| column.atttypid == kind && !column.attisdropped)
    }

    /// Adds a row. The values are copied.
    pub fn put<const COLUMNS: usize>(&self, cells: [Cell; COLUMNS]) {
        // The row type may have been altered.
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

    /// Adds a row of the result's type, which is copied.
    pub fn put_composite(&self, row: Composite<'_>) {
        if self.row_type() != row.kind() {
            unfit();
        }
        // SAFETY: the row is valid and of this type; it is copied.
        unsafe { pg_sys::tuplestore_puttuple(self.store, &mut row.tuple()) };
    }

    /// Adds an existing tuple, which is copied.
    ///
    /// # Safety
    /// The tuple must be valid, and have these columns.
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
