//! Metadata: JSON objects that products keep with keys and tenants.

use pg::call::Call;
use pg::error::{Error, Result};
use pg::jsonb::Json;
use pg::varlena;
use pgrx::pg_sys::Datum;

/// Most bytes of metadata, which every verdict carries.
const MAX_METADATA: usize = 64 * 1024;

pub fn check_size(name: &str, size: usize) -> Result<()> {
    if size > MAX_METADATA {
        return Err(Error::argument(name, format!("must have at most {MAX_METADATA} bytes")));
    }
    Ok(())
}

/// A jsonb argument that must be null or an object.
pub fn argument(call: &Call, n: usize) -> Result<Option<Datum>> {
    const NAME: &str = "metadata";
    let Some(datum) = call.datum(n) else { return Ok(None) };
    // SAFETY: a jsonb argument, which lives as long as the call.
    check_size(NAME, unsafe { varlena::length(datum) })?;
    match call.json(n) {
        Some(Json::Object(_)) => Ok(Some(datum)),
        _ => Err(Error::argument(NAME, "must be a JSON object")),
    }
}
