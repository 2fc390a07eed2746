//! Parses values with the input functions of built-in types. These functions have no side effects,
//! so their errors can be caught: the result is `None`.

use crate::text::{from_server, to_server};
use crate::varlena::{self, ArrayView};
use pgrx::pg_sys::{self, Datum, Interval, Oid};

/// # Safety
/// The function must be the input function of a built-in type.
unsafe fn read(function: u32, parameter: Oid, text: &str) -> Option<Datum> {
    if text.contains('\0') {
        return None;
    }
    let input = to_server(text);
    // SAFETY: as the caller promises: it takes a C string, a type and a modifier.
    pgrx::PgTryBuilder::new(|| unsafe {
        let text = input.as_ptr().cast_mut();
        Some(pg_sys::OidInputFunctionCall(function.into(), text, parameter, -1))
    })
    .catch_others(|_| None)
    .execute()
}

pub fn timestamp(text: &str) -> Option<i64> {
    // SAFETY: the input function of timestamptz.
    let datum = unsafe { read(pg_sys::F_TIMESTAMPTZ_IN, Oid::INVALID, text) };
    datum.map(|datum| datum.value() as i64)
}

pub fn interval(text: &str) -> Option<Interval> {
    // SAFETY: the input function of interval returns a pointer to the structure.
    unsafe {
        let datum = read(pg_sys::F_INTERVAL_IN, Oid::INVALID, text)?;
        Some(*datum.cast_mut_ptr::<Interval>())
    }
}

pub fn uuid(text: &str) -> Option<[u8; 16]> {
    // SAFETY: the input function of uuid returns a pointer to 16 bytes.
    unsafe {
        let datum = read(pg_sys::F_UUID_IN, Oid::INVALID, text)?;
        Some(*datum.cast_mut_ptr::<[u8; 16]>())
    }
}

/// The elements of a `text[]`; `None` for a null, and for a text that has no UTF-8 form.
pub fn texts(text: &str) -> Option<Vec<Option<String>>> {
    // SAFETY: the input function of arrays returns an array.
    let content = unsafe {
        let datum = read(pg_sys::F_ARRAY_IN, pg_sys::TEXTOID, text)?;
        varlena::bytes(datum)
    };
    Some(ArrayView::new(content).iter().map(|text| text.and_then(from_server)).collect())
}

/// A jsonb without its varlena header.
pub fn jsonb(text: &str) -> Option<Vec<u8>> {
    // SAFETY: the input function of jsonb returns a jsonb.
    unsafe {
        let datum = read(pg_sys::F_JSONB_IN, Oid::INVALID, text)?;
        Some(varlena::bytes(datum).to_vec())
    }
}

/// A jsonb from JSON text in the server's encoding. PostgreSQL raises an error for other text.
pub(crate) fn server_jsonb(mut text: Vec<u8>) -> Datum {
    text.retain(|byte| *byte != 0);
    text.push(0);
    // SAFETY: the input function of jsonb takes a C string, which it does not keep.
    unsafe {
        let function = pg_sys::F_JSONB_IN.into();
        pg_sys::OidInputFunctionCall(function, text.as_mut_ptr().cast(), Oid::INVALID, -1)
    }
}
