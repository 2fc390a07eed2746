//! Work as another role.

use crate::direct;
use crate::error::Result;
use crate::settings::set_for_now;
use crate::spi;
use crate::transaction::must_be_in_progress;
use pgrx::pg_sys::{self, Oid};
use std::ffi::c_int;

/// The current user.
pub fn current() -> Oid {
    // SAFETY: reads a variable of the session.
    unsafe { direct::GetUserId() }
}

/// The session user: the role that connected, or the role of SET SESSION AUTHORIZATION.
pub fn of_session() -> Oid {
    // SAFETY: as above.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whether a user has the privileges of a role.
pub fn has_privileges(user: Oid, role: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: looks up memberships of roles, inside a transaction.
    unsafe { pg_sys::has_privs_of_role(user, role) }
}

/// Runs statements as a role, as a SECURITY DEFINER function does.
pub fn acting_as<T>(role: Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    as_user(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE, body)
}

/// Runs statements as a user. Adds these flags to the current security context.
pub fn as_user<T>(user: Oid, flags: u32, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let place = UsersPlace::take(user, flags as c_int);
    let result = spi::session(body);
    place.leave();
    result
}

/// The user, the security context and the GUC nest level to return to. After a PostgreSQL error
/// nothing has to be done: the abort of the (sub)transaction restores the user and the settings.
struct UsersPlace {
    user: Oid,
    security: c_int,
    nesting: c_int,
}

impl UsersPlace {
    fn take(user: Oid, flags: c_int) -> UsersPlace {
        let mut place = UsersPlace { user: Oid::INVALID, security: 0, nesting: 0 };
        // SAFETY: what a SECURITY DEFINER function with a SET clause does at its
        // start, in the same order.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut place.user, &mut place.security);
            place.nesting = pg_sys::NewGUCNestLevel();
            set_for_now(c"search_path", c"pg_catalog, pg_temp");
            // A backslash in a literal has no special meaning, whatever the session has set.
            set_for_now(c"standard_conforming_strings", c"on");
            pg_sys::SetUserIdAndSecContext(user, place.security | flags);
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
