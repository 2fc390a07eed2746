//! Errors as callers see them: an SQLSTATE of our own, a message that names the argument, and a
//! hint if there is a remedy.

use crate::text;
use pgrx::pg_sys::panic::CaughtError;
use std::ffi::{CString, c_char, c_int};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The SQLSTATEs, named after the HTTP status that fits each. `docs/errors.md`
/// describes them to users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// An invalid argument.
    InvalidArgument,
    /// The caller may not do this, or the tenant's plan lacks a feature.
    NotAllowed,
    /// The key that the transaction acts for is no longer valid.
    IdentityOver,
    /// An object does not exist or is no longer valid: an unknown or revoked key, or an unknown
    /// tenant, keyspace, member or role.
    NotFound,
    /// An object exists already, is in the wrong state for the call, or would exceed the greatest
    /// allowed number.
    Conflict,
    /// The call needs the library to be preloaded.
    NotPreloaded,
    /// A standby did not replay in time.
    ReplayTimeout,
    /// The pepper file can't be used.
    Pepper,
    /// The tables are not what this library expects.
    Installation,
    /// A refused request, with its HTTP status in the form that PostgREST reads.
    Refused(Status),
    /// A refused request whose message and detail are JSON. PostgREST makes the status and headers
    /// of its response from them.
    RefusedWithHeaders,
    /// PostgreSQL's own code for running out of memory.
    OutOfMemory,
    /// PostgreSQL's own code for a lock that was not granted.
    LockNotAvailable,
}

/// The three digits of an HTTP status.
pub type Status = [u8; 3];

impl Code {
    pub const fn sqlstate(self) -> [u8; 5] {
        match self {
            Code::InvalidArgument => *b"KS400",
            Code::NotAllowed => *b"KS403",
            Code::IdentityOver => *b"KS401",
            Code::NotFound => *b"KS404",
            Code::Conflict => *b"KS409",
            Code::NotPreloaded => *b"KS503",
            Code::ReplayTimeout => *b"KS504",
            Code::Pepper => *b"KS510",
            Code::Installation => *b"KS500",
            Code::Refused([a, b, c]) => [b'P', b'T', a, b, c],
            Code::RefusedWithHeaders => *b"PGRST",
            Code::OutOfMemory => *b"53200",
            Code::LockNotAvailable => *b"55P03",
        }
    }

    /// PostgreSQL's packing: six bits a character.
    fn packed(self) -> c_int {
        let six_bits = |c: &u8| c_int::from(c.wrapping_sub(b'0') & 0x3f);
        self.sqlstate().iter().rev().fold(0, |packed, c| (packed << 6) | six_bits(c))
    }
}

/// An error to be raised: a code, a message, and optionally a detail and a hint.
pub struct Error {
    code: Code,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), detail: None, hint: None }
    }

    /// `label must have at most 100 characters`
    pub fn argument(name: &str, rule: impl AsRef<str>) -> Self {
        Error::new(Code::InvalidArgument, format!("{name} {}", rule.as_ref()))
    }

    /// Puts the name of the enclosing argument before the name in the message.
    pub fn within(mut self, argument: &str) -> Self {
        if self.code == Code::InvalidArgument {
            self.message = format!("{argument}.{}", self.message);
        }
        self
    }

    /// The error for a failure of the operating system's random number generator.
    pub fn no_entropy<E>(_: E) -> Self {
        Error::new(Code::Installation, "the operating system has no entropy to give")
    }

    /// An error with the code `NotFound`.
    pub fn not_found(what: impl Into<String>) -> Self {
        Error::new(Code::NotFound, what)
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The SQLSTATE, as PostgreSQL packs it.
    pub fn sqlstate(&self) -> i32 {
        self.code.packed()
    }

    pub fn detail_text(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error in the database's encoding, ready to be raised.
    pub fn into_report(self) -> Report {
        Report {
            sqlstate: self.code.packed(),
            message: text::to_server(&self.message),
            detail: self.detail.as_deref().map(text::to_server),
            hint: self.hint.as_deref().map(text::to_server),
        }
    }
}

/// An error in the form in which it is raised.
pub struct Report {
    sqlstate: c_int,
    message: CString,
    detail: Option<CString>,
    hint: Option<CString>,
}

impl Report {
    /// Reports the error to PostgreSQL, which does not return.
    ///
    /// # Safety
    /// PostgreSQL leaves by a long jump: no frame between here and the C caller may hold anything
    /// that needs dropping.
    pub unsafe fn raise(self) -> ! {
        // SAFETY: errstart(ERROR) starts a report that errfinish ends. Each text is
        // copied and freed by `consume`, so that nothing is left when it jumps.
        unsafe {
            elog::errstart(elog::ERROR, std::ptr::null());
            elog::errcode(self.sqlstate);
            consume(Some(self.message), elog::errmsg);
            consume(self.detail, elog::errdetail);
            consume(self.hint, elog::errhint);
            elog::errfinish(c"keysmith".as_ptr(), 0, std::ptr::null());
        }
        // errfinish does not return from an ERROR.
        std::process::abort()
    }
}

/// Passes a text to a report function, and frees it.
///
/// # Safety
/// A report must have been started.
unsafe fn consume(
    text: Option<CString>,
    report: unsafe extern "C-unwind" fn(*const c_char, ...) -> c_int,
) {
    if let Some(text) = text {
        // SAFETY: "%s" takes the one C string that follows; it is copied.
        unsafe { report(c"%s".as_ptr(), text.as_ptr()) };
    }
}

/// The message of a caught error.
pub fn message_of(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().into(),
    }
}

/// Keeps Rust backtraces out of error reports. pgrx sends a backtrace to the client if the server's
/// environment asks for backtraces. Rust reads the environment once, when it first captures a
/// backtrace.
pub fn without_backtraces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let usual = std::env::var_os(VARIABLE);
    // SAFETY: the library is loaded before the process has other threads.
    unsafe {
        std::env::set_var(VARIABLE, "0");
        drop(std::backtrace::Backtrace::capture());
        match usual {
            Some(value) => std::env::set_var(VARIABLE, value),
            None => std::env::remove_var(VARIABLE),
        }
    }
}

/// PostgreSQL's report functions. pgrx does not bind them, and its own reports support PostgreSQL's
/// SQLSTATEs only.
pub mod elog {
    use super::{c_char, c_int};
    use pgrx::pg_sys::elog::PgLogLevel;

    pub const ERROR: c_int = PgLogLevel::ERROR as c_int;
    pub const FATAL: c_int = PgLogLevel::FATAL as c_int;

    unsafe extern "C-unwind" {
        pub fn errstart(level: c_int, domain: *const c_char) -> bool;
        pub fn errcode(sqlstate: c_int) -> c_int;
        pub fn errmsg(format: *const c_char, ...) -> c_int;
        pub fn errdetail(format: *const c_char, ...) -> c_int;
        pub fn errhint(format: *const c_char, ...) -> c_int;
        pub fn errhidestmt(hide: bool) -> c_int;
        pub fn errhidecontext(hide: bool) -> c_int;
        pub fn geterrcode() -> c_int;
        pub fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    }
}
