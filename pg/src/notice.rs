//! Reports notices and warnings, with a hint, in the database's encoding.

use crate::error::elog;
use crate::text;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

pub fn notice(message: impl AsRef<str>, hint: Option<String>) {
    report(PgLogLevel::NOTICE, message.as_ref(), hint);
}

pub fn warning(message: impl AsRef<str>, hint: Option<String>) {
    report(PgLogLevel::WARNING, message.as_ref(), hint);
}

/// Writes to the server's log only, and without the statement: that may contain an API key.
pub fn log(message: impl AsRef<str>) {
    report(PgLogLevel::LOG_SERVER_ONLY, message.as_ref(), None);
}

fn report(level: PgLogLevel, message: &str, hint: Option<String>) {
    let message = text::to_server(message);
    let hint = hint.as_deref().map(text::to_server);
    let (message, hint) = (message.as_ptr(), hint.as_ref().map(|hint| hint.as_ptr()));
    let is_for_log = matches!(level, PgLogLevel::LOG_SERVER_ONLY);
    // SAFETY: "%s" takes the one C string that follows; both live through the call. Sending it may
    // process an interrupt, which may raise an error, so there is a guard. Nothing inside needs
    // dropping.
    unsafe {
        pg_guard_ffi_boundary(|| {
            if elog::errstart(level as i32, std::ptr::null()) {
                elog::errmsg(c"%s".as_ptr(), message);
                if let Some(hint) = hint {
                    elog::errhint(c"%s".as_ptr(), hint);
                }
                elog::errhidestmt(is_for_log);
                elog::errhidecontext(is_for_log);
                elog::errfinish(c"keysmith".as_ptr(), 0, std::ptr::null());
            }
        });
    }
}
