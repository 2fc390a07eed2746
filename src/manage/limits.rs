//! Rate limits: read from JSON, and stored as text.

use super::field::{List, Within, text_types};
use super::json;
use super::locked_key::LockedKey;
use super::patch::Patch;
use crate::limit;
use keysmith_core::claims::Bound;
use keysmith_core::gcra::{MAX_CALLS, MAX_WINDOW, MIN_WINDOW, Rate};
use keysmith_core::policy::failures;
use keysmith_core::policy::limits::{
    self, HeldLimits, LIMIT_NAME_RULE, MAX_LIMITS, MAX_SHARED, PER_RULE, Per, is_limit_name,
};
use keysmith_core::policy::weights::{UNIT_NAME_RULE, is_unit};
use keysmith_core::slots::MAX_CONCURRENT;
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::input;
use pg::spi::{self, Param};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

const NAME: &str = "limits";

/// The limits of a holder in their stored form. `None`, for an empty array, means no limits.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "List<Limit, MAX_LIMITS>")]
pub struct Limits(pub Option<String>);

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = r#"an object such as {"name": "burst", "limit": 100, "window": "1 minute"}"#
)]
struct GivenLimit {
    name: LimitName,
    limit: Option<Calls>,
    window: Option<Window>,
    burst: Option<Calls>,
    unit: Option<Unit>,
    per: Option<Separately>,
    concurrent: Option<Within<1, { MAX_CONCURRENT as i64 }>>,
}

#[derive(Deserialize)]
#[serde(try_from = "GivenLimit")]
struct Limit {
    name: String,
    line: String,
}

impl TryFrom<GivenLimit> for Limit {
    type Error = &'static str;

    fn try_from(given: GivenLimit) -> Result<Limit, &'static str> {
        let GivenLimit { name: LimitName(name), limit, window, burst, unit, per, concurrent } =
            given;
        let bound = match (concurrent, limit, window) {
            (Some(_), limit, window)
                if limit.is_some() || window.is_some() || burst.is_some() || unit.is_some() =>
            {
                return Err(r#"has a field "concurrent", which allows "name" and "per" besides"#);
            }
            (Some(limit), ..) => {
                Bound::Concurrent(u32::try_from(limit.0).unwrap_or(MAX_CONCURRENT))
            }
            (None, None, _) => return Err(r#"must have a field "limit""#),
            (None, _, None) => return Err(r#"must have a field "window""#),
            (None, Some(limit), Some(window)) => {
                let calls = |calls: Calls| u32::try_from(calls.0).unwrap_or(MAX_CALLS);
                let rate = Rate::new(calls(limit), window.0, calls(burst.unwrap_or(limit)));
                Bound::Rate(rate.ok_or("must be within its bounds")?)
            }
        };
        let unit = unit.as_ref().map_or("calls", |unit| &unit.0);
        let line = limits::line(&name, bound, unit, per.map(|per| per.0));
        Ok(Limit { name, line })
    }
}

type Calls = Within<1, { MAX_CALLS as i64 }>;

text_types! {
    LimitName: is_limit_name, LIMIT_NAME_RULE;
    Unit: is_unit_name, UNIT_NAME_RULE;
}

fn is_unit_name(name: &str) -> bool {
    is_unit(name.as_bytes())
}

/// What the limit counts separately.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Separately(Per);

impl TryFrom<String> for Separately {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Separately, &'static str> {
        Per::from_name(name.as_bytes()).map(Separately).ok_or(PER_RULE)
    }
}

/// A length of time in microseconds.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Window(u64);

impl TryFrom<String> for Window {
    type Error = &'static str;

    /// Reads an interval in any form that PostgreSQL does. A day has 24 hours; months and
    /// years differ in length.
    fn try_from(text: String) -> Result<Window, &'static str> {
        const DAY: i64 = 86_400_000_000;
        let interval = input::interval(&text).filter(|interval| interval.month == 0);
        let length = interval.and_then(|interval| {
            i64::from(interval.day).checked_mul(DAY)?.checked_add(interval.time)
        });
        let length = length.ok_or(
            "must be an interval such as 1 second, 1 hour or 30 days, without months and years",
        )?;
        u64::try_from(length)
            .ok()
            .filter(|length| (MIN_WINDOW..=MAX_WINDOW).contains(length))
            .map(Window)
            .ok_or("must be from 1 millisecond to 366 days")
    }
}

impl TryFrom<List<Limit, MAX_LIMITS>> for Limits {
    type Error = String;

    fn try_from(given: List<Limit, MAX_LIMITS>) -> Result<Limits, String> {
        let mut names = HashSet::new();
        let mut lines = Vec::new();
        for Limit { name, line } in given.0 {
            lines.push(line);
            if !names.insert(name.clone()) {
                return Err(format!("must have different names; {name:?} is there twice"));
            }
        }
        Ok(Limits((!lines.is_empty()).then(|| lines.join("\n"))))
    }
}

/// The limit of failed attempts, in its stored form.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "GivenFailureLimit")]
pub struct FailureLimit(String);

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = r#"an object such as {"limit": 20, "window": "1 minute"}"#
)]
struct GivenFailureLimit {
    limit: Calls,
    window: Window,
}

impl TryFrom<GivenFailureLimit> for FailureLimit {
    type Error = &'static str;

    fn try_from(given: GivenFailureLimit) -> Result<FailureLimit, &'static str> {
        let limit = u32::try_from(given.limit.0).unwrap_or(MAX_CALLS);
        let rate = Rate::new(limit, given.window.0, limit).ok_or("must be within its bounds")?;
        Ok(FailureLimit(failures::stored_form(rate)))
    }
}

/// Reads an argument of type jsonb.
pub fn given(call: &Call, n: usize) -> Result<Option<String>> {
    let limits: Option<Limits> = json::argument(call, n, NAME)?;
    let limits = limits.map_or(Patch::Absent, Patch::Value);
    check_kept(&limits)?;
    Ok(limits.value().and_then(|limits| limits.0.clone()))
}

/// Limits can't be given where nothing counts them.
pub fn check_kept(limits: &Patch<Limits>) -> Result<()> {
    check_counted(limits.value().is_some_and(|limits| limits.0.is_some()))
}

/// The same for a limit of any sort.
pub fn check_counted(is_given: bool) -> Result<()> {
    if is_given && !limit::is_there() {
        return Err(Error::new(
            Code::NotPreloaded,
            "limits can't be kept: the library is not preloaded",
        )
        .hint("Add keysmith to shared_preload_libraries, and restart the server."));
    }
    Ok(())
}

/// Keys that share the limits of a key share them as they are now.
pub fn follow(subject: &LockedKey, own: Option<&str>) -> Result<()> {
    let own = HeldLimits { key: subject.origin, own, shared: None }.handed_on();
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
