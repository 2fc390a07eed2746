//! Rows of open tables: reading, changing and inserting them.

use crate::relation::Description;
use crate::spi::Param;
use crate::transaction::must_be_in_progress;
use crate::value::Value;
use pgrx::pg_sys::{self, Datum, HeapTuple, LOCKMODE, MemoryContext, Oid};

/// A row, which does not change for `'a`.
#[derive(Clone, Copy)]
pub struct Tuple<'a> {
    tuple: HeapTuple,
    description: Description<'a>,
    memory: MemoryContext,
}

impl<'a> Tuple<'a> {
    /// # Safety
    /// The row must have this description. The row and the memory context must live for `'a`.
    pub unsafe fn new(
        tuple: HeapTuple,
        description: Description<'a>,
        memory: MemoryContext,
    ) -> Tuple<'a> {
        Tuple { tuple, description, memory }
    }

    pub(crate) fn get(self) -> HeapTuple {
        self.tuple
    }

    /// The value of a column; `None` for a null, and for a column that does not exist.
    pub fn value(self, column: i16) -> Option<Value<'a>> {
        let attribute = self.description.column(column)?;
        let mut is_null = true;
        // SAFETY: the row has this description, which has the column. Its values live as long as
        // the row.
        unsafe {
            let datum = pg_sys::heap_getattr(
                self.tuple,
                i32::from(column),
                self.description.get(),
                &mut is_null,
            );
            (!is_null).then(|| Value::new(datum, attribute, self.memory))
        }
    }

    /// The row with other values in some of its columns.
    pub fn with(self, changes: &[(i16, Param)]) -> Tuple<'a> {
        if changes.is_empty() {
            return self;
        }
        for (column, value) in changes {
            must_fit(self.description, *column, value);
        }
        let mut numbers: Vec<i32> = changes.iter().map(|(column, _)| i32::from(*column)).collect();
        let mut values: Vec<Datum> =
            changes.iter().map(|(_, value)| value.datum().unwrap_or(Datum::null())).collect();
        let mut nulls: Vec<bool> =
            changes.iter().map(|(_, value)| value.datum().is_none()).collect();
        // SAFETY: the row has this description, which has these columns, of these types. The arrays
        // have one element per change. The memory context lives as long as the row.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.memory);
            let tuple = pg_sys::heap_modify_tuple_by_cols(
                self.tuple,
                self.description.get(),
                changes.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::MemoryContextSwitchTo(before);
            Tuple { tuple, ..self }
        }
    }
}

/// Raises an error for a value that is not of the column's type.
fn must_fit(description: Description, column: i16, value: &Param) {
    let fits = description.column(column).is_some_and(|attribute| {
        let kind = attribute.atttypid;
        (kind == value.kind() || kind == pg_sys::VARCHAROID && value.kind() == pg_sys::TEXTOID)
            && (value.datum().is_some() || !attribute.attnotnull)
    });
    if !fits {
        pgrx::error!("column {} can't hold a value of type {}", column, value.kind());
    }
}

/// Inserts a row into a table that has no triggers, no constraints besides NOT NULL, and no indexes
/// of expressions or of some rows. It runs no statement, so it needs no privilege.
pub fn insert<const COLUMNS: usize>(table: Oid, row: [Param; COLUMNS]) {
    const LOCK: LOCKMODE = pg_sys::RowExclusiveLock as LOCKMODE;
    let mut values = row.map(|value| value.datum().unwrap_or(Datum::null()));
    let mut nulls = row.map(|value| value.datum().is_none());
    must_be_in_progress();
    // SAFETY: the table is open. The values match its columns in number and type, which is checked;
    // they are copied. After an error the abort closes everything.
    unsafe {
        let table = pg_sys::table_open(table, LOCK);
        let description = Description::new((*table).rd_att);
        let is_plain = (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_RELATION
            && (*(*table).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID
            && description.attributes().len() == COLUMNS;
        if !is_plain {
            pgrx::error!("the library does not fit the columns of this table");
        }
        for (column, value) in (1..).zip(&row) {
            must_fit(description, column, value);
        }
        let indexes = pg_sys::CatalogOpenIndexes(table);
        must_be_plain(&*indexes);
        let row =
            pg_sys::heap_form_tuple(description.get(), values.as_mut_ptr(), nulls.as_mut_ptr());
        // Despite its name, this works for any such table.
        pg_sys::CatalogTupleInsertWithInfo(table, row, indexes);
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::heap_freetuple(row);
        pg_sys::table_close(table, pg_sys::NoLock as LOCKMODE);
    }
}

/// Raises an error for an index that `insert` can't write to.
///
/// # Safety
/// The indexes must be open.
unsafe fn must_be_plain(table: &pg_sys::ResultRelInfo) {
    let count = usize::try_from(table.ri_NumIndices).unwrap_or_default();
    for n in 0..count {
        // SAFETY: as the caller promises; `ri_NumIndices` is the length of the array.
        let index = unsafe { &**table.ri_IndexRelationInfo.add(n) };
        if !index.ii_Expressions.is_null()
            || !index.ii_Predicate.is_null()
            || !index.ii_ExclusionOps.is_null()
        {
            pgrx::error!("the library does not fit the indexes of this table");
        }
    }
}
