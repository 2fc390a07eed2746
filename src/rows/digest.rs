//! `digest`, `digests`, `matches` and `is_digest`: values beside what is stored of them.

use super::value::Kind;
use keysmith_core::rows::stored::Algorithm;
use pg::call::{Call, must_not_be_null, sql_functions};
use pg::error::{Error, Result};
use pg::varlena;
use pgrx::pg_sys::{self, Datum, Oid};

sql_functions! {
    keysmith_digest_text => digest_text;
    keysmith_digest_bytes => digest_bytes;
    keysmith_digests_text => digests_text;
    keysmith_digests_bytes => digests_bytes;
    keysmith_matches_text => matches_text;
    keysmith_matches_bytes => matches_bytes;
    keysmith_is_digest_text => is_digest_text;
    keysmith_is_digest_bytes => is_digest_bytes;
}

fn digest_text(call: &Call) -> Result<Option<Datum>> {
    digest(call, Kind::Text)
}

fn digest_bytes(call: &Call) -> Result<Option<Datum>> {
    digest(call, Kind::Bytes)
}

fn digests_text(call: &Call) -> Result<Option<Datum>> {
    Ok(digests(call, Kind::Text, pg_sys::TEXTOID))
}

fn digests_bytes(call: &Call) -> Result<Option<Datum>> {
    Ok(digests(call, Kind::Bytes, pg_sys::BYTEAOID))
}

fn matches_text(call: &Call) -> Result<Option<Datum>> {
    Ok(matches(call, Kind::Text))
}

fn matches_bytes(call: &Call) -> Result<Option<Datum>> {
    Ok(matches(call, Kind::Bytes))
}

fn is_digest_text(call: &Call) -> Result<Option<Datum>> {
    Ok(is_digest(call, Kind::Text))
}

fn is_digest_bytes(call: &Call) -> Result<Option<Datum>> {
    Ok(is_digest(call, Kind::Bytes))
}

/// The content of a text or bytea, however long.
fn content(call: &Call, n: usize) -> Option<&[u8]> {
    // SAFETY: the argument is a varlena, which lives as long as the call.
    call.datum(n).map(|datum| unsafe { varlena::bytes(datum) })
}

fn digest(call: &Call, kind: Kind) -> Result<Option<Datum>> {
    let name = call.text(1, "algorithm")?.ok_or_else(|| must_not_be_null("algorithm"))?;
    let algorithm = Algorithm::named(&name)
        .ok_or_else(|| Error::argument("algorithm", "must be sha256 or hmac"))?;
    let Some(content) = content(call, 0) else { return Ok(None) };
    let stored = kind.digest(algorithm, content)?;
    Ok(Some(kind.datum(&stored).1))
}

fn digests(call: &Call, kind: Kind, element: Oid) -> Option<Datum> {
    let stored = kind.candidates(content(call, 0)?);
    let mut elements: Vec<Datum> = stored.iter().map(|stored| kind.datum(stored).1).collect();
    // SAFETY: the elements are of that type, as many as is said.
    let array = unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            element,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
        )
    };
    Some(array.into())
}

/// It is leakproof: it raises no error that tells of the stored value.
fn matches(call: &Call, kind: Kind) -> Option<Datum> {
    let (value, stored) = (call.datum(0)?, call.datum(1)?);
    // SAFETY: both are varlenas, which live as long as the call. Most that is no digest is
    // told by its length.
    let matches = unsafe {
        kind.is_stored(stored) && kind.matches(varlena::bytes(value), varlena::bytes(stored))
    };
    Some(Datum::from(matches))
}

fn is_digest(call: &Call, kind: Kind) -> Option<Datum> {
    // SAFETY: the argument is a varlena.
    call.datum(0).map(|value| Datum::from(unsafe { kind.is_stored(value) }))
}
