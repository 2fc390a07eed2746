//! Look-ups in the system catalogs. All of them need a transaction.

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
    // SAFETY: a catalog look-up, which returns InvalidOid if it finds nothing.
    known(unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) })
}

/// The schema of that name.
pub fn schema(name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a catalog look-up, which returns InvalidOid if it finds nothing.
    known(unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) })
}

/// A schema's name in the database's encoding; empty if the schema was dropped.
pub fn schema_name(schema: Oid) -> Vec<u8> {
    must_be_in_progress();
    // SAFETY: returns null or a C string in the current memory context.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() { Vec::new() } else { CStr::from_ptr(name).to_bytes().to_vec() }
    }
}

/// The table, index or view of that name.
pub fn relation(schema: Oid, name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a catalog look-up, which returns InvalidOid if it finds nothing.
    known(unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) })
}

/// The type of that name.
pub fn type_named(schema: Oid, name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a syscache look-up by name and schema, which returns InvalidOid if there is no such
    // type.
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

/// The function of that name that takes no arguments.
pub fn function_without_arguments(schema: Oid, name: &CStr) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a syscache look-up by name, arguments and schema, which returns InvalidOid if there is
    // no such function. With a count of 0 no argument is read.
    known(unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            Datum::from(name.as_ptr()),
            Datum::from(pg_sys::buildoidvector(std::ptr::null(), 0)),
            Datum::from(schema),
            Datum::null(),
        )
    })
}

/// The schema and the name of the relation whose row type this is.
pub fn relation_of_type(kind: Oid) -> Option<(Oid, String)> {
    must_be_in_progress();
    // SAFETY: returns InvalidOid for a type that is not the row type of a relation, and null for a
    // relation that was dropped.
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

/// The owner of a relation.
pub fn owner_of_relation(relation: Oid) -> Oid {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if the relation was dropped. Until it is closed, its
    // relcache entry is valid.
    unsafe {
        let relation = pg_sys::relation_open(relation, LOCK);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, LOCK);
        owner
    }
}

/// Whether a collation is deterministic: equal texts have the same bytes.
pub fn is_deterministic(collation: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if there is no such collation.
    known(collation)
        .is_none_or(|collation| unsafe { pg_sys::get_collation_isdeterministic(collation) })
}

/// A type's name as SQL writes it.
pub fn type_name(kind: Oid) -> String {
    must_be_in_progress();
    // SAFETY: returns a C string for any OID.
    text::lossy(unsafe { CStr::from_ptr(pg_sys::format_type_be(kind)) }.to_bytes())
}

/// Passes the row description of a composite type to `with`. It is valid while `with` runs.
pub(crate) fn with_row_type<T>(kind: Oid, with: impl FnOnce(pg_sys::TupleDesc) -> T) -> T {
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if there is no such type. The reference to the description
    // is released after its use, or after an error by the abort.
    unsafe {
        let description = pg_sys::lookup_rowtype_tupdesc(kind, -1);
        let result = with(description);
        if (*description).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(description);
        }
        result
    }
}
