//! A table's columns, and values of its rows.

use pg::{major, text};
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute, HeapTuple, Oid, Relation, TupleDesc};
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// The columns that are there, described by PostgreSQL.
///
/// # Safety
/// The description must be valid for as long as the result is used.
pub unsafe fn columns<'a>(
    description: TupleDesc,
) -> impl Iterator<Item = &'a FormData_pg_attribute> {
    // SAFETY: as the caller promises.
    unsafe { major::attributes(description) }.iter().filter(|attribute| !attribute.attisdropped)
}

/// A column's name, in the database's encoding.
pub fn name(attribute: &FormData_pg_attribute) -> &[u8] {
    // SAFETY: a name ends with a NUL.
    unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes()
}

/// Whether the value is computed from those of other columns, after our triggers.
pub fn is_generated(attribute: &FormData_pg_attribute) -> bool {
    attribute.attgenerated != 0
}

/// Whether the column of that number is of that type.
///
/// # Safety
/// The description must be valid.
pub unsafe fn has(description: TupleDesc, column: i16, kind: Oid) -> bool {
    let index = usize::try_from(column - 1).unwrap_or(usize::MAX);
    // SAFETY: as the caller promises.
    unsafe { major::attributes(description) }
        .get(index)
        .is_some_and(|attribute| !attribute.attisdropped && attribute.atttypid == kind)
}

/// A value of a row.
///
/// # Safety
/// The row must be one of the description, which has the column.
pub unsafe fn value(row: HeapTuple, column: i16, description: TupleDesc) -> Option<Datum> {
    let number = NonZeroUsize::new(usize::try_from(column).unwrap_or_default())?;
    // SAFETY: as the caller promises.
    unsafe { pgrx::heap_getattr_raw(row, number, description) }
}

/// The row with other values in some of its columns, in the current memory context.
///
/// # Safety
/// The row must be one of the description, which has the columns, of these types.
pub unsafe fn with_values(
    row: HeapTuple,
    description: TupleDesc,
    changes: &[(i16, Datum)],
) -> HeapTuple {
    if changes.is_empty() {
        return row;
    }
    let mut numbers: Vec<i32> = changes.iter().map(|(column, _)| i32::from(*column)).collect();
    let mut values: Vec<Datum> = changes.iter().map(|(_, value)| *value).collect();
    let mut nulls = vec![false; changes.len()];
    // SAFETY: as the caller promises; the arrays have as many elements as is said.
    unsafe {
        pg_sys::heap_modify_tuple_by_cols(
            row,
            description,
            changes.len() as i32,
            numbers.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
        )
    }
}

/// What a table is called, for messages.
///
/// # Safety
/// The relation must be open.
pub unsafe fn relation_name(relation: Relation) -> String {
    // SAFETY: as the caller promises; a name ends with a NUL.
    let name = unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) };
    text::lossy(name.to_bytes())
}

/// The table that rows of this one may move within: the topmost of which it is a
/// partition, or itself.
///
/// # Safety
/// The relation must be open.
pub unsafe fn family(relation: Relation) -> (Oid, bool) {
    // SAFETY: as the caller promises; the function takes a relation and gives one.
    unsafe {
        let own = (*relation).rd_id;
        if !(*(*relation).rd_rel).relispartition {
            return (own, false);
        }
        let top = pgrx::direct_function_call::<Oid>(pg_sys::pg_partition_root, &[Some(own.into())]);
        (top.unwrap_or(own), true)
    }
}
