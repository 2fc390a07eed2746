//! Values in their text form, by the output functions of PostgreSQL's own types.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use std::ffi::CStr;

/// # Safety
/// The function must be the output function of the datum's type.
unsafe fn written(function: unsafe fn(FunctionCallInfo) -> Datum, datum: Datum) -> String {
    // SAFETY: as the caller promises: it gives a C string.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(function, &[Some(datum)]);
        text.map_or(String::new(), |text| {
            CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned()
        })
    }
}

/// A moment as the session shows it.
pub fn timestamp(moment: i64) -> String {
    // SAFETY: the output function of timestamps with time zone.
    unsafe { written(pg_sys::timestamptz_out, Datum::from(moment)) }
}

/// The address that the session's client connected from; `None` for a socket.
pub fn client_address() -> Option<String> {
    // SAFETY: the first function takes no arguments, and gives null or an inet. The second is the
    // output function of inets.
    unsafe {
        let address = pgrx::direct_function_call_as_datum(pg_sys::inet_client_addr, &[])?;
        Some(written(pg_sys::inet_out, address))
    }
}

/// A moment as JSON has it, which every session reads alike.
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

pub fn uuid(uuid: &[u8; 16]) -> String {
    // SAFETY: the output function of uuids, which are pointers to 16 bytes.
    unsafe { written(pg_sys::uuid_out, Datum::from(uuid.as_ptr())) }
}
