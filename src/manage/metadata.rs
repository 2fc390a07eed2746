//! Metadata: JSON objects that products keep with keys and tenants.

use pg::call::Call;
use pg::error::{Error, Result};
use pg::jsonb::{Json, Jsonb};

/// Most bytes of metadata, which every verdict carries.
const MAX_METADATA: usize = 64 * 1024;

pub fn check_size(name: &str, size: usize) -> Result<()> {
    if size > MAX_METADATA {
        return Err(Error::argument(name, format!("must have at most {MAX_METADATA} bytes")));
    }
    Ok(())
}

/// A jsonb argument that must be null or an object.
pub fn argument(call: &Call, n: usize) -> Result<Option<Jsonb<'_>>> {
    const NAME: &str = "metadata";
    let Some(json) = call.jsonb(n) else { return Ok(None) };
    check_size(NAME, json.length())?;
    match call.json(n) {
        Some(Json::Object(_)) => Ok(Some(json)),
        _ => Err(Error::argument(NAME, "must be a JSON object")),
    }
}
