//! Functions of PostgreSQL about tables that pgrx has no binding for.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Bitmapset, LOCKMODE, List, Oid, Relation};
use std::ffi::c_void;
use std::ptr::null_mut;

unsafe extern "C-unwind" {
    fn find_all_inheritors(parent: Oid, lock: LOCKMODE, parents: *mut *mut List) -> *mut List;
    fn get_partition_ancestors(partition: Oid) -> *mut List;
    fn RelationGetPartitionKey(relation: Relation) -> *mut c_void;
    fn has_partition_attrs(
        relation: Relation,
        columns: *mut Bitmapset,
        used_in_expression: *mut bool,
    ) -> bool;
    fn get_primary_key_attnos(
        relation: Oid,
        deferrable_too: bool,
        constraint: *mut Oid,
    ) -> *mut Bitmapset;
}

/// The OIDs of a table and of all tables that inherit from it. All are locked.
///
/// # Safety
/// Inside a transaction. This may raise an error.
pub unsafe fn inheritors(parent: Oid, lock: LOCKMODE) -> Vec<Oid> {
    // SAFETY: as the caller promises; find_all_inheritors returns a list of OIDs. Nothing inside of
    // the guard needs dropping.
    unsafe { oids(pg_guard_ffi_boundary(|| find_all_inheritors(parent, lock, null_mut()))) }
}

/// The OIDs of the tables that a partition belongs to, the topmost last.
///
/// # Safety
/// Inside a transaction. This may raise an error.
pub unsafe fn ancestors(partition: Oid) -> Vec<Oid> {
    // SAFETY: as the caller promises; get_partition_ancestors returns a list of OIDs.
    unsafe { oids(pg_guard_ffi_boundary(|| get_partition_ancestors(partition))) }
}

/// # Safety
/// A list of OIDs, or null for an empty one.
unsafe fn oids(list: *mut List) -> Vec<Oid> {
    // SAFETY: as the caller promises.
    let list = unsafe { list.as_ref() };
    let read = |list: &List| {
        let count = usize::try_from(list.length).unwrap_or_default();
        // SAFETY: the list has so many elements.
        (0..count).map(|n| unsafe { (*list.elements.add(n)).oid_value }).collect()
    };
    list.map_or(Vec::new(), read)
}

/// Reads the partition key. The relcache entry keeps it.
///
/// # Safety
/// The relation must be open. This may raise an error, and run its owner's code.
pub unsafe fn read_partition_key(relation: Relation) {
    // SAFETY: as the caller promises.
    unsafe { pg_guard_ffi_boundary(|| RelationGetPartitionKey(relation)) };
}

/// Whether the partition key uses this column.
///
/// # Safety
/// The relation must be open. This may raise an error.
pub unsafe fn is_partitioned_by(relation: Relation, column: i16) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let columns = pg_sys::bms_make_singleton(offset(column));
        let mut in_expression = false;
        pg_guard_ffi_boundary(|| has_partition_attrs(relation, columns, &mut in_expression))
    }
}

/// Columns of a relation, by number.
pub struct Columns(*mut Bitmapset);

impl Columns {
    /// The columns of the primary key.
    ///
    /// # Safety
    /// Inside a transaction. This may raise an error.
    pub unsafe fn of_primary_key(relation: Oid) -> Columns {
        let mut constraint = Oid::INVALID;
        // SAFETY: as the caller promises.
        unsafe {
            Columns(pg_guard_ffi_boundary(|| {
                get_primary_key_attnos(relation, true, &mut constraint)
            }))
        }
    }

    /// Whether the column is in the set.
    pub fn has(&self, column: i16) -> bool {
        // SAFETY: a set, or null for the empty one.
        unsafe { pg_sys::bms_is_member(offset(column), self.0) }
    }
}

/// PostgreSQL shifts the numbers in such sets, since system columns have negative numbers.
fn offset(column: i16) -> i32 {
    i32::from(column) - pg_sys::FirstLowInvalidHeapAttributeNumber
}
