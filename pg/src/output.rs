//! Formats values with the output functions of built-in types.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};
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
    in_json(pg_sys::TIMESTAMPTZOID, Datum::from(moment))
}

/// A timestamp or a date as PostgreSQL writes it in JSON.
fn in_json(kind: Oid, moment: Datum) -> String {
    let mut text = [0; pg_sys::MAXDATELEN as usize + 1];
    // SAFETY: the text of a timestamp, with a NUL at its end, is no longer than MAXDATELEN.
    unsafe {
        pg_sys::JsonEncodeDateTime(text.as_mut_ptr(), moment, kind, std::ptr::null());
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

/// A value as PostgreSQL writes it in JSON: of a timestamp or a date, given its number; of any other
/// type, the number. A number outside the type's range becomes the least or greatest value.
pub fn number_of_type(kind: Oid, number: i64) -> String {
    let (least, end) = match kind {
        pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => {
            (-211_813_488_000_000_000, 9_223_371_331_200_000_000)
        }
        pg_sys::DATEOID => (-2_451_545, 2_145_031_949),
        pg_sys::INT2OID => return number.clamp(i16::MIN.into(), i16::MAX.into()).to_string(),
        pg_sys::INT4OID => return number.clamp(i32::MIN.into(), i32::MAX.into()).to_string(),
        _ => return number.to_string(),
    };
    if number < least {
        return "-infinity".into();
    }
    if number >= end {
        return "infinity".into();
    }
    in_json(kind, Datum::from(number))
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
