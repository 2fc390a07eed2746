//! Formats values with the output functions of built-in types.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use std::ffi::CStr;

/// # Safety
/// The function must be the output function of the datum's type.
unsafe fn written(function: unsafe fn(FunctionCallInfo) -> Datum, datum: Datum) -> String {
    // SAFETY: as the caller promises; an output function returns a C string.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(function, &[Some(datum)]);
        text.map_or(String::new(), |text| {
            CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned()
        })
    }
}

/// A timestamptz in the session's format.
pub fn timestamp(moment: i64) -> String {
    // SAFETY: the output function of timestamps with time zone.
    unsafe { written(pg_sys::timestamptz_out, Datum::from(moment)) }
}

/// The client's address; `None` for a Unix-domain socket.
pub fn client_address() -> Option<String> {
    // SAFETY: the first function takes no arguments, and returns null or an inet. The second is the
    // output function of inets.
    unsafe {
        let address = pgrx::direct_function_call_as_datum(pg_sys::inet_client_addr, &[])?;
        Some(written(pg_sys::inet_out, address))
    }
}

/// A timestamptz as PostgreSQL writes it in JSON, the same in every session.
pub fn iso_timestamp(moment: i64) -> String {
    let mut text = [0; pg_sys::MAXDATELEN as usize + 1];
    // SAFETY: the text of a timestamp, with a NUL at its end, is no longer than MAXDATELEN.
    unsafe {
        let no_zone = std::ptr::null();
        let kind = pg_sys::TIMESTAMPTZOID;
        pg_sys::JsonEncodeDateTime(text.as_mut_ptr(), Datum::from(moment), kind, no_zone);
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

/// An interval of this many microseconds, in the session's format.
pub fn interval(time: i64) -> String {
    let mut interval = pg_sys::Interval { time, ..Default::default() };
    // SAFETY: the output function of intervals, which are pointers to their struct.
    unsafe { written(pg_sys::interval_out, Datum::from(&raw mut interval)) }
}

pub fn uuid(uuid: &[u8; 16]) -> String {
    // SAFETY: the output function of uuids, which are pointers to 16 bytes.
    unsafe { written(pg_sys::uuid_out, Datum::from(uuid.as_ptr())) }
}
