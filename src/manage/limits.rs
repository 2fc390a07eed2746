//! Rate limits as they are given, checked and made ready to be stored.

use super::locked_key::LockedKey;
use super::patch::{self, Change, Patch};
use crate::limit;
use keysmith_core::gcra::Rate;
use keysmith_core::policy::limits::{self, Held, MAX_SHARED};
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::input;
use pg::spi::{self, Param};
use serde_json::Value;

const NAME: &str = "limits";

/// An argument of type jsonb.
pub fn given(call: &Call, n: usize) -> Result<Option<String>> {
    match call.jsonb(n) {
        None => Ok(None),
        Some(json) => read(patch::parse(NAME, json)?),
    }
}

/// A field of a patch; null is for no limits, and so is an empty array.
pub fn changed(patch: &mut Patch) -> Result<Change<String>> {
    match patch.value(NAME)? {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(value) => read(value).map(Some),
    }
}

/// `[{"name": "burst", "limit": 1000, "window": "1 hour", "burst": 1000}]`
fn read(value: Value) -> Result<Option<String>> {
    let mistyped = || {
        Error::argument(NAME, "must be an array of objects")
            .hint(r#"Such as [{"name": "burst", "limit": 100, "window": "1 minute"}]."#)
    };
    let Value::Array(items) = value else { return Err(mistyped()) };
    if items.is_empty() {
        return Ok(None);
    }
    let mut named = Vec::new();
    for item in items {
        let Value::Object(fields) = item else { return Err(mistyped()) };
        named.push(read_one(Patch::new(NAME, fields))?);
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    limits::check_names(&names).map_err(|rule| Error::argument(NAME, rule))?;
    if !limit::is_there() {
        return Err(Error::new(
            Code::NotPreloaded,
            "limits can't be kept: the library is not preloaded",
        )
        .hint("Add keysmith to shared_preload_libraries, and restart the server."));
    }
    let lines: Vec<String> = named.iter().map(|(name, rate)| limits::line(name, *rate)).collect();
    Ok(Some(lines.join("\n")))
}

/// Keys that share the limits of a key share them as they are now.
pub fn follow(subject: &LockedKey, own: Option<&str>) -> Result<()> {
    let own = Held { key: subject.origin, own, shared: None }.handed_on();
    let all = spi::all(
        "UPDATE keysmith_private.key k SET shared_limits = nullif(pg_catalog.concat_ws(E'\\n', (
                 SELECT pg_catalog.string_agg(line, E'\\n' ORDER BY n)
                 FROM pg_catalog.unnest(pg_catalog.string_to_array(k.shared_limits, E'\\n'))
                     WITH ORDINALITY AS lines (line, n)
                 WHERE NOT pg_catalog.starts_with(line, $2::text)), $3), '')
         WHERE k.tenant_id = $1 AND pg_catalog.strpos(k.shared_limits, $2::text) > 0
         RETURNING k.shared_limits",
        &[
            Param::uuid(&subject.tenant_id),
            Param::uuid(&subject.origin),
            Param::text_or_null(own.as_deref()),
        ],
        |row| row.text(1),
    )?;
    all.iter().try_for_each(|shared| check_shared(shared))
}

/// Limits that a key shares with the keys that gave it.
pub fn check_shared(shared: &str) -> Result<()> {
    match shared.lines().count() {
        0..=MAX_SHARED => Ok(()),
        count => Err(Error::argument(
            NAME,
            format!("must not be more than {MAX_SHARED} that a key shares, and would be {count}"),
        )),
    }
}

fn read_one(mut fields: Patch) -> Result<(String, Rate)> {
    let missing = |field: &str| Error::argument(NAME, format!("must each have a {field}"));
    let name = fields.text("name")?.flatten();
    let limit = fields.bigint("limit")?.flatten();
    let window = fields.text("window")?.flatten();
    let burst = fields.bigint("burst")?.flatten();
    fields.finish()?;
    let name = name.ok_or_else(|| missing("name"))?;
    let limit = limit.ok_or_else(|| missing("limit"))?;
    let window = microseconds(&window.ok_or_else(|| missing("window"))?)?;
    let rate = limits::rate(limit, window, burst.unwrap_or(limit));
    rate.map(|rate| (name, rate)).map_err(|rule| Error::argument(NAME, rule))
}

/// Reads an interval in any form that PostgreSQL does. A day has 24 hours; months and
/// years have no one length.
fn microseconds(text: &str) -> Result<i64> {
    const DAY: i64 = 86_400_000_000;
    let bad = || {
        Error::argument("limits.window", "must be an interval such as 1 second, 1 hour or 30 days")
            .hint("Months and years differ in length: give days.")
    };
    let interval = input::interval(text).ok_or_else(bad)?;
    let days = i64::from(interval.day).checked_mul(DAY);
    let length = days.and_then(|days| days.checked_add(interval.time));
    length.filter(|_| interval.month == 0).ok_or_else(bad)
}
