//! Connections to other servers through libpqwalreceiver, the library by which standbys receive
//! WAL. It also runs queries.

use crate::error::message_of;
use crate::{major, text, transaction, varlena};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Oid, WalRcvExecResult, WalReceiverConn};
use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;
use std::ptr::{NonNull, null_mut};

/// A connection, which is closed when it is dropped.
pub struct Connection(NonNull<WalReceiverConn>);

/// Why a connection or a query failed.
pub struct Failed {
    pub message: String,
}

/// The library's functions. The first call loads the library.
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

impl Connection {
    /// Connects to a server.
    pub fn open(conninfo: &str) -> Result<Connection, Failed> {
        let conninfo = CString::new(conninfo).unwrap_or_default();
        let connect = functions()?.walrcv_connect;
        let mut error: *mut c_char = null_mut();
        // SAFETY: the strings live through the call. TopMemoryContext is current, since the
        // library's allocations must live as long as the connection, not only as long as a
        // transaction.
        let connection = guarded(|| unsafe {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let connection = connect.map(|connect| {
                pg_guard_ffi_boundary(|| major::connect(connect, &conninfo, &mut error))
            });
            pg_sys::MemoryContextSwitchTo(context);
            connection.unwrap_or(null_mut())
        })?;
        // SAFETY: without a connection, `error` is null or a message that the library has
        // allocated.
        NonNull::new(connection).map(Connection).ok_or_else(|| unsafe { failed(error) })
    }

    /// Runs a statement that returns this many columns of type text, and returns its first row.
    /// Needs a transaction.
    pub fn query(&self, statement: &str, columns: usize) -> Result<Vec<Option<String>>, Failed> {
        let statement = CString::new(statement).unwrap_or_default();
        let types: Vec<Oid> = vec![pg_sys::TEXTOID; columns];
        let exec = functions()?.walrcv_exec;
        guarded(|| {
            transaction::must_be_in_progress();
            // SAFETY: the connection is open; the arguments live through the call. The library
            // raises an error if the columns are not as many as the types, and makes values of
            // those types. Its result is a structure of the current memory context.
            unsafe {
                let result = exec.map(|exec| {
                    pg_guard_ffi_boundary(|| {
                        let count = types.len() as i32;
                        exec(self.0.as_ptr(), statement.as_ptr(), count, types.as_ptr())
                    })
                });
                match result.and_then(|result| result.as_ref()) {
                    None => Err(Failed { message: "no answer".into() }),
                    Some(result) => first_row(result, columns),
                }
            }
        })?
    }
}

/// # Safety
/// The result must have just been returned by the library, with this many columns of type text.
unsafe fn first_row(
    result: &WalRcvExecResult,
    columns: usize,
) -> Result<Vec<Option<String>>, Failed> {
    use pg_sys::WalRcvExecStatus::{WALRCV_OK_COMMAND, WALRCV_OK_TUPLES};
    if result.status != WALRCV_OK_TUPLES && result.status != WALRCV_OK_COMMAND {
        // SAFETY: null or a message, which the library has allocated.
        return Err(unsafe { failed(result.err) });
    }
    let mut row = Vec::with_capacity(columns);
    if columns == 0 || result.tuplestore.is_null() {
        return Ok(row);
    }
    // SAFETY: the rows are in a tuplestore, and `tupledesc` describes them.
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
            row.push((!is_null).then(|| text::lossy(varlena::bytes(value))));
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::tuplestore_end(result.tuplestore);
    }
    Ok(row)
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Ok(functions) = functions() else { return };
        let _ = guarded(|| {
            if let Some(disconnect) = functions.walrcv_disconnect {
                // SAFETY: the connection is open, and only this owns it.
                unsafe { pg_guard_ffi_boundary(|| disconnect(self.0.as_ptr())) }
            }
        });
    }
}

/// Copies a message of the library, and frees it.
///
/// # Safety
/// The message must be null, or a palloc'ed C string that is passed to this function.
unsafe fn failed(message: *mut c_char) -> Failed {
    if message.is_null() {
        return Failed { message: "the primary does not say why".into() };
    }
    // SAFETY: as the caller promises.
    unsafe {
        let copy = text::lossy(CStr::from_ptr(message).to_bytes());
        pg_sys::pfree(message.cast());
        Failed { message: copy.trim_end().into() }
    }
}

/// Runs `body`, and returns an error that the library raises as a value.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, Failed> {
    pgrx::PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
        .catch_others(|error| Err(Failed { message: message_of(&error) }))
        .execute()
}
