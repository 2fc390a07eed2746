//! Metadata: JSON objects that products keep with keys and tenants.

use super::field::Document;
use super::json;
use super::patch::Patch;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::jsonb::{Json, Jsonb};
use pg::spi::Param;

fn check_size(name: &str, size: usize) -> Result<()> {
    /// Every verdict carries the metadata.
    const MOST: usize = 64 * 1024;
    if size > MOST {
        return Err(Error::argument(name, format!("must have at most {MOST} bytes")));
    }
    Ok(())
}

/// A jsonb argument that must be null or an object.
pub fn argument(call: &Call, n: usize) -> Result<Option<Jsonb<'_>>> {
    const NAME: &str = "metadata";
    /// Programs that read a key as JSON have it within one more.
    const MOST_LEVELS: usize = 100;
    let Some(json) = call.jsonb(n) else { return Ok(None) };
    check_size(NAME, json.length())?;
    match call.json(n) {
        Some(Json::Object(_)) if !json.is_plain(MOST_LEVELS) => Err(json::not_plain(NAME)),
        // This also rejects numbers that no double has, such as 9e308.
        Some(Json::Object(_)) => json::value(call, n, NAME).map(|_| Some(json)),
        _ => Err(Error::argument(NAME, "must be a JSON object")),
    }
}

/// The assignment for a field of the patch that argument `n` is. The value is taken from the
/// argument itself, since numbers of Rust have fewer digits.
pub fn assignment<'a>(
    call: &'a Call,
    n: usize,
    field: &Patch<Document>,
) -> Result<Option<(&'static str, Param<'a>)>> {
    let patch = call.jsonb(n);
    if field.value().is_some() {
        let size = patch.and_then(|patch| patch.length_of("metadata"));
        check_size("changes.metadata", size.unwrap_or(usize::MAX))?;
    }
    let assignment = "metadata = coalesce(nullif($3 -> 'metadata', 'null'), '{}')";
    Ok((!field.is_absent()).then(|| (assignment, Param::jsonb(patch))))
}
