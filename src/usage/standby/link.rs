//! A standby's connection to its primary, by PostgreSQL's own client in the server:
//! the library by which standbys receive the log also runs queries.

use crate::usage::settings;
use keysmith_core::conninfo;
use pg::{major, text};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;
use std::ptr::null_mut;

/// What these connections are called on the primary, which tells them from standbys.
pub const APPLICATION: &str = "keysmith usage";

/// A primary that is gone without a word is given up after as many milliseconds.
const SILENCE: &str = "10000";

/// A primary that is held up must not hold up the standby for good, and the settings of the role
/// and the database there must not keep usage from being stored.
const SETTINGS: [&str; 3] = [
    "SET statement_timeout = '20s'",
    "SET default_transaction_read_only = off",
    "SET default_transaction_isolation = 'read committed'",
];

pub struct Link(*mut pg_sys::WalReceiverConn);

/// Why a query has no answer.
pub struct Failed {
    pub message: String,
}

/// Where to connect: as the setting says, or where the log comes from. `None` where
/// usage is not to be sent, or there is no such place.
pub fn conninfo() -> Option<String> {
    let chosen = settings::conninfo();
    if chosen == settings::OFF {
        return None;
    }
    if !chosen.is_empty() {
        return Some(chosen);
    }
    // SAFETY: a setting of the server's: null, or a C string.
    let primary = unsafe {
        let primary = pg_sys::PrimaryConnInfo;
        if primary.is_null() { &[] } else { CStr::from_ptr(primary).to_bytes() }
    };
    (!primary.is_empty()).then(|| String::from_utf8_lossy(primary).into_owned())
}

/// Whether there is such a place. Asked for each request on a standby.
pub fn is_wanted() -> bool {
    // SAFETY: as above.
    let has_primary = unsafe { pg_sys::PrimaryConnInfo.as_ref().is_some_and(|first| *first != 0) };
    settings::is_sending(has_primary)
}

/// The library's functions, loaded when they are needed first.
fn functions() -> Result<pg_sys::WalReceiverFunctionsType, Failed> {
    guarded(|| {
        // SAFETY: the library sets the pointer when it is loaded, which it is once.
        unsafe {
            if pg_sys::WalReceiverFunctions.is_null() {
                pg_sys::load_file(c"libpqwalreceiver".as_ptr(), false);
            }
            pg_sys::WalReceiverFunctions.as_ref().copied()
        }
    })?
    .ok_or_else(|| Failed { message: "libpqwalreceiver can't be loaded".into() })
}

impl Link {
    /// Connects to a database of the primary's.
    pub fn open(conninfo: &str, database: &str, standby: &str) -> Result<Link, Failed> {
        let name = format!("{APPLICATION} {standby}");
        let whole = conninfo::with(
            conninfo,
            &[("dbname", database), ("application_name", &name), ("tcp_user_timeout", SILENCE)],
        );
        let whole = CString::new(whole).unwrap_or_default();
        let connect = functions()?.walrcv_connect;
        let mut error: *mut c_char = null_mut();
        // SAFETY: the strings live through the call. What the library allocates must
        // live as long as the connection, not only as long as a transaction.
        let connection = guarded(|| unsafe {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let connection = connect.map(|connect| {
                pg_guard_ffi_boundary(|| major::connect(connect, &whole, &mut error))
            });
            pg_sys::MemoryContextSwitchTo(context);
            connection.unwrap_or(null_mut())
        })?;
        if connection.is_null() {
            return Err(Failed { message: taken(error) });
        }
        let link = Link(connection);
        for setting in SETTINGS {
            link.query(setting, &[])?;
        }
        Ok(link)
    }

    /// Runs a statement. Called in a transaction, in whose memory the answer is. The
    /// texts of the first row, as many as there are types.
    pub fn query(&self, statement: &str, types: &[Oid]) -> Result<Vec<Option<String>>, Failed> {
        let statement = CString::new(statement).unwrap_or_default();
        let exec = functions()?.walrcv_exec;
        guarded(|| {
            // SAFETY: the connection is open; the arguments live through the call; the
            // library's result is a structure of the current memory context.
            unsafe {
                let result = exec.map(|exec| {
                    pg_guard_ffi_boundary(|| {
                        exec(self.0, statement.as_ptr(), types.len() as i32, types.as_ptr())
                    })
                });
                match result.and_then(|result| result.as_ref()) {
                    None => Err(Failed { message: "no answer".into() }),
                    Some(result) => answer(result, types.len()),
                }
            }
        })?
    }
}

/// # Safety
/// The result must be fresh from the library, with columns of type text.
unsafe fn answer(
    result: &pg_sys::WalRcvExecResult,
    columns: usize,
) -> Result<Vec<Option<String>>, Failed> {
    use pg_sys::WalRcvExecStatus::{WALRCV_OK_COMMAND, WALRCV_OK_TUPLES};
    if result.status != WALRCV_OK_TUPLES && result.status != WALRCV_OK_COMMAND {
        return Err(Failed { message: taken(result.err) });
    }
    let mut row = Vec::with_capacity(columns);
    if columns == 0 || result.tuplestore.is_null() {
        return Ok(row);
    }
    // SAFETY: the rows are in a store of their own, described by `tupledesc`.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(
            result.tupledesc,
            &raw const pg_sys::TTSOpsMinimalTuple,
        );
        let is_there = pg_sys::tuplestore_gettupleslot(result.tuplestore, true, false, slot);
        for column in 1..=columns as i32 {
            let mut is_null = !is_there;
            let value = if is_there {
                pg_sys::slot_getattr(slot, column, &mut is_null)
            } else {
                pg_sys::Datum::null()
            };
            row.push((!is_null).then(|| text::lossy(pg::varlena::bytes(value))));
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::tuplestore_end(result.tuplestore);
    }
    Ok(row)
}

impl Drop for Link {
    fn drop(&mut self) {
        let Ok(functions) = functions() else { return };
        let _ = guarded(|| {
            if let Some(disconnect) = functions.walrcv_disconnect {
                // SAFETY: the connection is open, and nobody else has it.
                unsafe { pg_guard_ffi_boundary(|| disconnect(self.0)) }
            }
        });
    }
}

/// A message of the library's, without the memory it was in.
fn taken(message: *mut c_char) -> String {
    if message.is_null() {
        return "the primary does not say why".into();
    }
    // SAFETY: a C string that was allocated for us.
    unsafe {
        let copy = text::lossy(CStr::from_ptr(message).to_bytes());
        pg_sys::pfree(message.cast());
        copy.trim_end().into()
    }
}

/// Errors that the library raises, as a value.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, Failed> {
    pgrx::PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
        .catch_others(|error| Err(Failed { message: crate::usage::transaction::message(&error) }))
        .execute()
}
