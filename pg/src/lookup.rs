//! Look-ups in PostgreSQL's catalogs, in a transaction.

use crate::text;
use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

fn known(oid: Oid) -> Option<Oid> {
    (oid != Oid::INVALID).then_some(oid)
}

/// The extension of that name.
pub fn extension(name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: gives InvalidOid if there is none.
    known(unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) })
}

/// The schema of that name.
pub fn schema(name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: gives InvalidOid if there is none.
    known(unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) })
}

/// A schema's name, in the database's encoding; empty if it is gone.
pub fn schema_name(schema: Oid) -> Vec<u8> {
    must_be_in_progress();
    // SAFETY: gives null or a C string in the current memory context.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() { Vec::new() } else { CStr::from_ptr(name).to_bytes().to_vec() }
    }
}

/// The table, index or view of that name.
pub fn relation(schema: Oid, name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: gives InvalidOid if there is none.
    known(unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) })
}

/// The type of that name.
pub fn type_named(schema: Oid, name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a look-up in the cache of types by name and schema, which gives InvalidOid if
    // there is none.
    known(unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as pg_sys::AttrNumber,
            Datum::from(name.as_ptr()),
            Datum::from(schema),
            Datum::null(),
            Datum::null(),
        )
    })
}

/// The schema and the name of the relation that has a row type.
pub fn relation_of_type(kind: Oid) -> Option<(Oid, String)> {
    must_be_in_progress();
    // SAFETY: gives InvalidOid for other types, and null for what is no relation.
    unsafe {
        let relation = known(pg_sys::get_typ_typrelid(kind))?;
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return None;
        }
        let name = text::lossy(CStr::from_ptr(name).to_bytes());
        Some((pg_sys::get_rel_namespace(relation), name))
    }
}

/// Who owns a relation.
pub fn owner_of_relation(relation: Oid) -> Oid {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if it is gone.
    unsafe {
        let relation = pg_sys::relation_open(relation, LOCK);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, LOCK);
        owner
    }
}

/// Whether texts that are equal by a collation have the same bytes.
pub fn is_deterministic(collation: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: an error if there is no such collation.
    known(collation)
        .is_none_or(|collation| unsafe { pg_sys::get_collation_isdeterministic(collation) })
}

/// A type's name as SQL has it.
pub fn type_name(kind: Oid) -> String {
    must_be_in_progress();
    // SAFETY: gives a C string for any type.
    text::lossy(unsafe { CStr::from_ptr(pg_sys::format_type_be(kind)) }.to_bytes())
}

/// Hands on the description of a row type, which is there until `with` is over.
pub(crate) fn with_row_type<T>(kind: Oid, with: impl FnOnce(pg_sys::TupleDesc) -> T) -> T {
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if there is no such type; the description is
    // released after its use, and after an error by the abort.
    unsafe {
        let description = pg_sys::lookup_rowtype_tupdesc(kind, -1);
        let result = with(description);
        if (*description).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(description);
        }
        result
    }
}
