//! An open table and its columns.

use crate::transaction::must_be_in_progress;
use crate::{major, text};
use pgrx::pg_sys::{self, FormData_pg_attribute, FormData_pg_class, Oid, TupleDesc};
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

/// A table that is open at least as long as this.
#[derive(Clone, Copy)]
pub struct RelationView<'a> {
    relation: pg_sys::Relation,
    _open: PhantomData<&'a ()>,
}

/// What a transaction does to rows.
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

    /// A fact of pg_class. PostgreSQL changes the row in place when the table is altered, so
    /// nothing borrows from it.
    pub fn class<T: 'static>(self, fact: impl FnOnce(&FormData_pg_class) -> T) -> T {
        // SAFETY: the relation is open, so it has the row.
        fact(unsafe { &*(*self.relation).rd_rel })
    }

    /// Its name without the schema, in the database's encoding.
    pub fn name(self) -> Vec<u8> {
        self.class(|class| terminated(&class.relname.data).to_vec())
    }

    pub fn description(self) -> Description<'a> {
        // SAFETY: the relation is open. Where it is altered meanwhile, PostgreSQL keeps the
        // former description until the transaction ends.
        unsafe { Description::new((*self.relation).rd_att) }
    }

    /// The table that rows of this one may move within: the topmost of which it is a
    /// partition, or itself; and whether it is a partition.
    pub fn family(self) -> (Oid, bool) {
        let own = self.oid();
        if !self.class(|class| class.relispartition) {
            return (own, false);
        }
        // SAFETY: the function takes a relation and gives one.
        let top = unsafe {
            pgrx::direct_function_call::<Oid>(pg_sys::pg_partition_root, &[Some(own.into())])
        };
        (top.unwrap_or(own), true)
    }

    /// Has all sessions forget what they know of the table, once the transaction commits.
    pub fn invalidate(self) {
        // SAFETY: the relation is open.
        unsafe { pg_sys::CacheInvalidateRelcache(self.relation) };
    }

    /// How many rows of the table this transaction has changed up to now, as PostgreSQL
    /// counts them for its statistics.
    pub fn changed_rows(self, change: Change) -> i64 {
        let mut sum: i64 = 0;
        // SAFETY: the relation is open; where it has been changed it has counts, which are the
        // backend's own, one for each open subtransaction, linked upwards.
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
    // SAFETY: a setting that is a boolean.
    unsafe { pg_sys::pgstat_track_counts }
}

/// What rows are like: their columns, numbered from 1.
#[derive(Clone, Copy)]
pub struct Description<'a> {
    description: TupleDesc,
    _kept: PhantomData<&'a ()>,
}

impl<'a> Description<'a> {
    /// # Safety
    /// The description must be complete, and stay as it is as long as `'a`.
    pub unsafe fn new(description: TupleDesc) -> Description<'a> {
        Description { description, _kept: PhantomData }
    }

    pub(crate) fn get(self) -> TupleDesc {
        self.description
    }

    /// Its columns, dropped ones too.
    pub fn attributes(self) -> &'a [FormData_pg_attribute] {
        // SAFETY: the description stays as it is.
        unsafe { major::attributes(self.description) }
    }

    /// The columns that are there.
    pub fn columns(self) -> impl Iterator<Item = &'a FormData_pg_attribute> {
        self.attributes().iter().filter(|attribute| !attribute.attisdropped)
    }

    /// The column of that number, if it is there.
    pub fn column(self, number: i16) -> Option<&'a FormData_pg_attribute> {
        let index = usize::try_from(i32::from(number) - 1).ok()?;
        self.attributes().get(index).filter(|attribute| !attribute.attisdropped)
    }

    /// Whether the column of that number is there, and of that type.
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

/// Whether the value is computed from those of other columns, after triggers before the row.
pub fn is_generated(attribute: &FormData_pg_attribute) -> bool {
    attribute.attgenerated != 0
}

/// What comes before the first NUL.
fn terminated(name: &[c_char]) -> &[u8] {
    // SAFETY: C's characters are bytes.
    let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A column's number by its name, in the database's encoding: 0 if there is none, and less for a
/// system column.
pub fn column_number(relation: Oid, name: &CStr) -> i16 {
    must_be_in_progress();
    // SAFETY: a look-up by a name, a C string, which is not kept.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) }
}
