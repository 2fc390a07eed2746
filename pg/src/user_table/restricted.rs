//! Runs work that may call code of a table's owner as that owner, in a security-restricted
//! operation, as REINDEX and ANALYZE do.

use super::UserTable;
use crate::settings::set_for_now;
use pgrx::pg_sys::{self, Oid};
use std::ffi::c_int;

/// Runs `body` as the table's owner. Code that runs in it can't become another role or change
/// the session. `with_our_path` sets the search path to `pg_catalog`. After an error, the
/// abort restores everything.
pub fn as_owner<T>(table: &UserTable, with_our_path: bool, body: impl FnOnce() -> T) -> T {
    let (mut user, mut security) = (Oid::INVALID, 0);
    // SAFETY: the same calls, in the same order, as PostgreSQL makes around such work.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(
            table.owner(),
            security | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int,
        );
        let level = pg_sys::NewGUCNestLevel();
        if with_our_path {
            set_for_now(c"search_path", c"pg_catalog, pg_temp");
        }
        let result = body();
        // Settings that were changed meanwhile are undone.
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, security);
        result
    }
}
