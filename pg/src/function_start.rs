//! Statements that begin, and have a call of one of our functions.
//!
//! When a statement begins, PostgreSQL checks for each call in it whether the role may make it, and
//! calls a hook. It does so also where the call is never made, because no row is read.

use crate::callback;
use crate::error::Result;
use crate::lookup;
use crate::memory::Watch;
use pgrx::pg_sys::{self, Datum, ObjectAccessType, Oid};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A function without arguments, and what is called when a statement with a call of it begins.
pub struct Watched {
    pub schema: &'static CStr,
    pub name: &'static CStr,
    pub then: fn() -> Result<()>,
}

static WATCHED: OnceLock<Watched> = OnceLock::new();
static PREVIOUS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// The function's OID in this database, or one of these.
static FOUND: AtomicU32 = AtomicU32::new(NOT_SOUGHT);
const NOT_SOUGHT: u32 = 0;
const NONE: u32 = u32::MAX;

/// How many changes of functions this session has noticed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Watches a function. To be called once, from `_PG_init`.
pub fn watch(function: Watched) {
    WATCHED.get_or_init(|| function);
    // SAFETY: the hook and the callback live as long as the library, which is never unloaded. Our
    // hook calls the one that was installed before.
    unsafe {
        PREVIOUS.get_or_init(|| pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(at_access);
        let functions = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        pg_sys::CacheRegisterSyscacheCallback(functions, Some(forget), Datum::null());
    }
}

unsafe extern "C-unwind" fn forget(_: Datum, _cache: c_int, _hash: u32) {
    CHANGES.store(CHANGES.load(Relaxed).wrapping_add(1), Relaxed);
    FOUND.store(NOT_SOUGHT, Relaxed);
}

unsafe extern "C-unwind" fn at_access(
    access: ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: the arguments are those of PostgreSQL. This frame holds nothing that needs dropping.
    unsafe {
        if let Some(Some(previous)) = PREVIOUS.get() {
            previous(access, class, object, part, argument);
        }
        if access == ObjectAccessType::OAT_FUNCTION_EXECUTE && may_be_watched(object) {
            callback::guarded(|| Watch::over(|| begin(object)));
        }
    }
}

#[inline]
fn may_be_watched(function: Oid) -> bool {
    let found = FOUND.load(Relaxed);
    found == function.to_u32() || found == NOT_SOUGHT && !is_built_in(function)
}

fn is_built_in(function: Oid) -> bool {
    function.to_u32() < pg_sys::FirstNormalObjectId
}

#[cold]
fn begin(function: Oid) -> Result<()> {
    let Some(watched) = WATCHED.get() else { return Ok(()) };
    if FOUND.load(Relaxed) == NOT_SOUGHT {
        let before = CHANGES.load(Relaxed);
        let found = lookup::schema(watched.schema)
            .and_then(|schema| lookup::function_without_arguments(schema, watched.name));
        // A change during the look-up may concern this function.
        if CHANGES.load(Relaxed) == before {
            FOUND.store(found.map_or(NONE, Oid::to_u32), Relaxed);
        }
        if found != Some(function) {
            return Ok(());
        }
    }
    (watched.then)()
}
