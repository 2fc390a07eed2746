//! As whom management acts.
//!
//! A management function may be called by whom it was granted to. Having checked
//! its arguments it acts as the extension's owner, since no one else may touch the
//! tables, and under a search path that holds nothing but PostgreSQL's own.

use super::sql;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::text;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_int};

/// Who called.
pub struct Caller {
    pub role: String,
}

/// Runs an act of management. Its effects are flushed when they commit, whatever
/// `synchronous_commit` says: a revocation that was acknowledged, or a key that was
/// handed out, must outlive a crash.
pub fn act<T>(body: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    let catalog = Catalog::open()?;
    let caller = Caller { role: current_role() };
    let owner = OwnersPlace::take(&catalog);
    let result = sql::session(|| body(&caller));
    owner.leave();
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
    result
}

/// Runs something that only reads, as the owner.
pub fn look<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    as_owner(body)
}

/// Runs something as the owner, whose commit need not be flushed.
pub fn as_owner<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let catalog = Catalog::open()?;
    let owner = OwnersPlace::take(&catalog);
    let result = sql::session(body);
    owner.leave();
    result
}

fn current_role() -> String {
    // SAFETY: gives a C string, or null for a role that is just being dropped.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetUserId(), true);
        if name.is_null() {
            return String::from("unknown");
        }
        text::from_server(CStr::from_ptr(name).to_bytes()).unwrap_or_default()
    }
}

/// The owner's identity, taken for the length of an act. Errors that PostgreSQL
/// raises meanwhile need no care: aborting the (sub)transaction restores both the
/// identity and the settings.
struct OwnersPlace {
    user: Oid,
    security: c_int,
    nesting: c_int,
}

impl OwnersPlace {
    fn take(catalog: &Catalog) -> OwnersPlace {
        let mut place = OwnersPlace { user: Oid::INVALID, security: 0, nesting: 0 };
        // SAFETY: what a SECURITY DEFINER function with a SET clause does at its
        // start, in the same order.
        unsafe {
            let relation = pg_sys::table_open(
                catalog.tables.key.table,
                pg_sys::AccessShareLock as pg_sys::LOCKMODE,
            );
            let owner = (*(*relation).rd_rel).relowner;
            pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            pg_sys::GetUserIdAndSecContext(&mut place.user, &mut place.security);
            place.nesting = pg_sys::NewGUCNestLevel();
            set_for_now(c"search_path", c"pg_catalog, pg_temp");
            pg_sys::SetUserIdAndSecContext(
                owner,
                place.security | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int,
            );
        }
        place
    }

    fn leave(self) {
        // SAFETY: what such a function does at its end.
        unsafe {
            pg_sys::SetUserIdAndSecContext(self.user, self.security);
            pg_sys::AtEOXact_GUC(true, self.nesting);
        }
    }
}

/// # Safety
/// A nest level must have been begun, which ends the setting.
unsafe fn set_for_now(name: &CStr, value: &CStr) {
    // SAFETY: a setting that every user may set.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}
