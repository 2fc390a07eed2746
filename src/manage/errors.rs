//! Errors that several acts raise.

use pg::error::Error;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;
use std::ffi::CStr;

/// What an argument names is not there.
pub fn unknown_member(argument: &str, member: &str) -> Error {
    let shown: String = member.chars().take(200).collect();
    Error::not_found(format!("{argument} {shown:?} is not a member of the tenant"))
        .hint("Add members with keysmith.set_member.")
}

/// The text form of an id, for messages.
pub fn shown(key_id: &[u8; 16]) -> String {
    // SAFETY: uuid_out takes a pointer to 16 bytes and gives a C string.
    unsafe {
        let argument = [Some(Datum::from(key_id.as_ptr()))];
        let text = pgrx::direct_function_call_as_datum(pg_sys::uuid_out, &argument);
        text.map_or(String::new(), |text| {
            CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned()
        })
    }
}

/// The one error for a key that is not there and one that is over.
pub fn unknown_key(key_id: &[u8; 16]) -> Error {
    Error::not_found(format!("key {} does not exist or is revoked", shown(key_id)))
}
