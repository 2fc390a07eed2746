//! An open table and its columns.

use crate::transaction::must_be_in_progress;
use crate::{major, text};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, FormData_pg_attribute, FormData_pg_class, Oid, TupleDesc};
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

unsafe extern "C-unwind" {
    /// pgrx has no binding for it.
    fn typeInheritsFrom(descendant: Oid, ancestor: Oid) -> bool;
}

/// An open table. It stays open for `'a`.
#[derive(Clone, Copy)]
pub struct RelationView<'a> {
    relation: pg_sys::Relation,
    _open: PhantomData<&'a ()>,
}

/// A kind of change to rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

impl<'a> RelationView<'a> {
    /// # Safety
    /// The relation must be open as long as `'a`.
    pub unsafe fn new(relation: pg_sys::Relation) -> RelationView<'a> {
        RelationView { relation, _open: PhantomData }
    }

    pub(crate) fn relation(self) -> pg_sys::Relation {
        self.relation
    }

    pub fn oid(self) -> Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_id }
    }

    /// Reads the table's row of pg_class. PostgreSQL overwrites its copy of the row when the table
    /// is altered, so the result can't borrow from it.
    pub fn class<T: 'static>(self, fact: impl FnOnce(&FormData_pg_class) -> T) -> T {
        // SAFETY: the relation is open, so it has the row.
        fact(unsafe { &*(*self.relation).rd_rel })
    }

    /// Its name without the schema, in the database's encoding.
    pub fn name(self) -> Vec<u8> {
        self.class(|class| terminated(&class.relname.data).to_vec())
    }

    pub fn description(self) -> Description<'a> {
        // SAFETY: the relation is open. If it is altered meanwhile, PostgreSQL keeps the old
        // description until the transaction ends.
        unsafe { Description::new((*self.relation).rd_att) }
    }

    /// The root of the partition tree that the table belongs to, within which rows may move, or the
    /// table itself; and whether it is a partition.
    pub fn family(self) -> (Oid, bool) {
        let own = self.oid();
        if !self.class(|class| class.relispartition) {
            return (own, false);
        }
        // SAFETY: pg_partition_root takes a regclass, and returns one or null.
        let top = unsafe {
            pgrx::direct_function_call::<Oid>(pg_sys::pg_partition_root, &[Some(own.into())])
        };
        (top.unwrap_or(own), true)
    }

    /// Whether the table inherits from another, directly or through others, as partitions do.
    pub fn inherits_from(self, ancestor: Oid) -> bool {
        // SAFETY: look-ups in catalogs, inside a transaction; the relation is open. There is no type
        // if the other relation was dropped.
        unsafe {
            let kind = pg_sys::get_rel_type_id(ancestor);
            let own = (*(*self.relation).rd_rel).reltype;
            kind != Oid::INVALID && pg_guard_ffi_boundary(|| typeInheritsFrom(own, kind))
        }
    }

    /// Sends a relcache invalidation for the table to all sessions when the transaction commits.
    pub fn invalidate(self) {
        // SAFETY: the relation is open.
        unsafe { pg_sys::CacheInvalidateRelcache(self.relation) };
    }

    /// How many rows of the table this transaction has changed so far, as PostgreSQL counts them
    /// for its statistics.
    pub fn changed_rows(self, change: Change) -> i64 {
        let mut sum: i64 = 0;
        // SAFETY: the relation is open. Its counts are null, or in this backend's memory: one for
        // each open subtransaction, linked to the next one up.
        unsafe {
            let counts = (*self.relation).pgstat_info;
            let mut level = if counts.is_null() { std::ptr::null_mut() } else { (*counts).trans };
            while !level.is_null() {
                sum = sum.saturating_add(match change {
                    Change::Insert => (*level).tuples_inserted,
                    Change::Update => (*level).tuples_updated,
                    Change::Delete => (*level).tuples_deleted,
                });
                level = (*level).upper;
            }
        }
        sum
    }
}

/// Whether PostgreSQL counts changed rows in this session.
pub fn counts_changed_rows() -> bool {
    // SAFETY: reads a boolean setting.
    unsafe { pg_sys::pgstat_track_counts }
}

/// A row description (TupleDesc). Columns are numbered from 1.
#[derive(Clone, Copy)]
pub struct Description<'a> {
    description: TupleDesc,
    _kept: PhantomData<&'a ()>,
}

impl<'a> Description<'a> {
    /// # Safety
    /// The description must be complete, and must not change for `'a`.
    pub unsafe fn new(description: TupleDesc) -> Description<'a> {
        Description { description, _kept: PhantomData }
    }

    pub(crate) fn get(self) -> TupleDesc {
        self.description
    }

    /// All columns, including dropped ones.
    pub fn attributes(self) -> &'a [FormData_pg_attribute] {
        // SAFETY: the description stays as it is.
        unsafe { major::attributes(self.description) }
    }

    /// The columns that are not dropped.
    pub fn columns(self) -> impl Iterator<Item = &'a FormData_pg_attribute> {
        self.attributes().iter().filter(|attribute| !attribute.attisdropped)
    }

    /// The column with this number, unless it is dropped or does not exist.
    pub fn column(self, number: i16) -> Option<&'a FormData_pg_attribute> {
        let index = usize::try_from(i32::from(number) - 1).ok()?;
        self.attributes().get(index).filter(|attribute| !attribute.attisdropped)
    }

    /// Whether there is a column with this number and type.
    pub fn has(self, number: i16, kind: Oid) -> bool {
        self.column(number).is_some_and(|attribute| attribute.atttypid == kind)
    }
}

/// A column's name, in the database's encoding.
pub fn name_bytes(attribute: &FormData_pg_attribute) -> &[u8] {
    terminated(&attribute.attname.data)
}

pub fn column_name(attribute: &FormData_pg_attribute) -> String {
    text::lossy(name_bytes(attribute))
}

/// Whether the column is generated: PostgreSQL computes it from other columns, after the BEFORE ROW
/// triggers.
pub fn is_generated(attribute: &FormData_pg_attribute) -> bool {
    attribute.attgenerated != 0
}

/// The bytes before the first NUL.
fn terminated(name: &[c_char]) -> &[u8] {
    // SAFETY: a `c_char` is one byte.
    let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The number of a column, by its name in the database's encoding: 0 if there is no such column,
/// negative for a system column.
pub fn column_number(relation: Oid, name: &CStr) -> i16 {
    must_be_in_progress();
    // SAFETY: a look-up by a name, a C string, which is not kept.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) }
}

/// Whether a table has a column of this name, in the database's encoding, that is not generated.
pub fn has_plain_column(relation: Oid, name: &CStr) -> bool {
    let number = column_number(relation, name);
    // SAFETY: a look-up of a column that exists.
    number > 0 && unsafe { pg_sys::get_attgenerated(relation, number) } == 0
}
