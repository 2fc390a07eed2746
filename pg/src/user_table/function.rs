//! The OIDs of our functions, without a check that the caller may use the schema: the
//! planner and triggers also run for roles that may not.

use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_int};

/// The schema of the public functions.
const KEYSMITH: &CStr = c"keysmith";

/// The OID of one of our functions, or `InvalidOid`.
pub fn ours(name: &CStr, arguments: &[Oid]) -> Oid {
    must_be_in_progress();
    // SAFETY: look-ups in caches; names are C strings, the length is that of the slice.
    unsafe {
        let schema = pg_sys::get_namespace_oid(KEYSMITH.as_ptr(), true);
        let arguments = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as c_int);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as c_int,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(arguments),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::null(),
        )
    }
}
