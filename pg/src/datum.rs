//! Makes datums in the current memory context.

use crate::{text, varlena};
use pgrx::pg_sys::{self, Datum, ItemPointerData};
use std::net::IpAddr;

/// An interval of days and microseconds.
pub fn interval(days: i32, microseconds: i64) -> Datum {
    // SAFETY: palloc returns memory of the structure's size, which is filled in before anything
    // reads it.
    unsafe {
        let interval = pg_sys::palloc0(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
        (*interval).day = days;
        (*interval).time = microseconds;
        Datum::from(interval)
    }
}

pub fn uuid(uuid: &[u8; 16]) -> Datum {
    // SAFETY: palloc returns 16 bytes, which are filled in before anything reads them.
    unsafe {
        let copy = pg_sys::palloc(16).cast::<[u8; 16]>();
        *copy = *uuid;
        Datum::from(copy)
    }
}

/// A text or bytea of these bytes. A text must be in the database's encoding.
pub fn bytes(content: &[u8]) -> Datum {
    // SAFETY: the length is that of the slice, which is copied.
    unsafe { pg_sys::cstring_to_text_with_len(content.as_ptr().cast(), content.len() as i32) }
        .into()
}

/// A jsonb, from its JSON text. An error if it has no form in the database's encoding.
pub fn jsonb(json: &str) -> Datum {
    let json = text::to_server(json);
    // SAFETY: the input function of jsonb takes a C string.
    unsafe {
        let text = json.as_ptr().cast_mut();
        pg_sys::OidInputFunctionCall(pg_sys::F_JSONB_IN.into(), text, pg_sys::Oid::INVALID, -1)
    }
}

/// An inet of one address.
pub fn inet(address: IpAddr) -> Datum {
    // inet_struct: family as varlena::network has it, prefix length, address.
    match address {
        IpAddr::V4(v4) => bytes(&[&[2, 32], &v4.octets()[..]].concat()),
        IpAddr::V6(v6) => bytes(&[&[3, 128], &v6.octets()[..]].concat()),
    }
}

/// A tid.
pub fn tid(place: ItemPointerData) -> Datum {
    // SAFETY: palloc returns memory of the structure's size, which is filled in before anything
    // reads it.
    unsafe {
        let copy = pg_sys::palloc(size_of::<ItemPointerData>()).cast::<ItemPointerData>();
        *copy = place;
        Datum::from(copy)
    }
}

/// An array of texts in the database's encoding, or of byteas.
pub fn array_of_bytes(contents: &[impl AsRef<[u8]>], element: pg_sys::BuiltinOid) -> Datum {
    let elements = contents.iter().map(|content| bytes(content.as_ref())).collect();
    let is_fit = matches!(element, pg_sys::BuiltinOid::TEXTOID | pg_sys::BuiltinOid::BYTEAOID);
    varlena::array(elements, if is_fit { element.value() } else { pg_sys::BYTEAOID })
}

/// A tid[].
pub fn tid_array(places: &[ItemPointerData]) -> Datum {
    let elements = places.iter().map(|place| Datum::from(std::ptr::from_ref(place))).collect();
    varlena::array(elements, pg_sys::TIDOID)
}
