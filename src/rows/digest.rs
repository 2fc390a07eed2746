//! `digest`, `digests`, `matches` and `is_digest`: values compared with stored digests.

use super::value::Kind;
use keysmith_core::rows::stored::{Algorithm, TEXT_MOST};
use pg::call::{Bytes, Call, must_not_be_null, sql_functions};
use pg::datum;
use pg::error::{Error, Result};
use pgrx::pg_sys::{BuiltinOid, Datum};

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
    Ok(digests(call, Kind::Text, BuiltinOid::TEXTOID))
}

fn digests_bytes(call: &Call) -> Result<Option<Datum>> {
    Ok(digests(call, Kind::Bytes, BuiltinOid::BYTEAOID))
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
    match call.bytes(n, usize::MAX)? {
        Bytes::Read(content) => Some(content),
        Bytes::TooLong => None,
    }
}

fn digest(call: &Call, kind: Kind) -> Result<Option<Datum>> {
    let name = call.text(1, "algorithm")?.ok_or_else(|| must_not_be_null("algorithm"))?;
    let algorithm = Algorithm::named(&name)
        .ok_or_else(|| Error::argument("algorithm", "must be sha256 or hmac"))?;
    let Some(content) = content(call, 0) else { return Ok(None) };
    let stored = kind.digest(algorithm, content)?;
    Ok(Some(datum::bytes(&kind.content(&stored))))
}

fn digests(call: &Call, kind: Kind, element: BuiltinOid) -> Option<Datum> {
    let stored = kind.candidates(content(call, 0)?);
    let contents: Vec<Vec<u8>> = stored.iter().map(|stored| kind.content(stored)).collect();
    Some(datum::array_of_bytes(&contents, element))
}

/// It is leakproof: it raises no error that depends on the stored value. Most values that are no
/// digests are recognized by their length.
fn matches(call: &Call, kind: Kind) -> Option<Datum> {
    let stored = call.bytes(1, TEXT_MOST)?;
    let matches = match stored {
        Bytes::Read(stored) if kind.read(stored).is_some() => {
            kind.matches(content(call, 0)?, stored)
        }
        _ => false,
    };
    Some(Datum::from(matches))
}

fn is_digest(call: &Call, kind: Kind) -> Option<Datum> {
    call.bytes(0, TEXT_MOST).map(|value| Datum::from(kind.is_stored(value)))
}
