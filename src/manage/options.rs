//! The options of a keyspace: read, checked, stored.

use super::field::{
    Environment, Grants, IdTemplate, IdleTime, KeyPrefix, Lifetime, Line, List, Name, Networks,
    NoticePeriod, TagNames, Template, Within, text_types,
};
use super::idle;
use super::json;
use super::key::{self, MAX_SCOPES};
use super::limits::{self, FailureLimit, Limits};
use super::patch::{self, Columns, Patch};
use crate::catalog::policy::UsageLog;
use crate::usage::session::worker_slot;
use keysmith_core::http::error_body::ErrorBody;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::header::{SCHEMES_RULE, Schemes};
use keysmith_core::policy::name::{PRINCIPAL_RULE, is_principal};
use keysmith_core::policy::scope::MAX_SCOPE_LEN;
use keysmith_core::policy::verdict::Answer;
use pg::call::Call;
use pg::error::Result;
use pg::spi::{self, Param};
use pgrx::pg_sys::Interval;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Formatter};

/// The options of a keyspace. Those that are written out are columns of its row, by the same
/// names; a null sets the column's default.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    #[serde(skip_serializing, deserialize_with = "some_prefixes")]
    prefixes: Patch<Prefixes>,
    empty_scopes: Patch<EmptyScopes>,
    default_scopes: Patch<Grants>,
    max_active_keys: Patch<Within<1, 1_000_000>>,
    at_max: Patch<AtMax>,
    label_length: Patch<Within<1, 1000>>,
    schemes: Patch<SchemeNames>,
    wildcards: Patch<bool>,
    unlisted_routes: Patch<UnlistedRoutes>,
    managed_by: Patch<Requirement>,
    #[serde(skip_serializing)]
    display: Patch<Display>,
    #[serde(skip_serializing)]
    codes: Patch<BTreeMap<Canonical, Wording>>,
    #[serde(skip_serializing)]
    plan_features: Patch<BTreeMap<Feature, Option<List<Name, MAX_SCOPES>>>>,
    limits: Patch<Limits>,
    charges: Patch<List<Environment, 100>>,
    usage_log: Patch<UsageLog>,
    usage_details: Patch<bool>,
    error_body: Patch<Body>,
    default_lifetime: Patch<Lifetime>,
    max_lifetime: Patch<Lifetime>,
    require_label: Patch<bool>,
    unique_labels: Patch<bool>,
    max_idle: Patch<IdleTime>,
    allowlist: Patch<Networks>,
    key_limits: Patch<Limits>,
    key_credits: Patch<Within<0, { i64::MAX }>>,
    issuer: Patch<Principal>,
    expiring_notice: Patch<NoticePeriod>,
    failure_limit: Patch<FailureLimit>,
    usage_tags: Patch<TagNames>,
}

/// Reads an argument of `create_keyspace`.
type Read = fn(&Call, usize, &str) -> Result<Option<Value>>;

/// The arguments of `create_keyspace` after the name, in their order.
const ARGUMENTS: [(&str, Read); 30] = [
    ("prefixes", json::value),
    ("empty_scopes", text),
    ("default_scopes", required_texts),
    ("max_active_keys", integer),
    ("at_max", text),
    ("label_length", integer),
    ("schemes", texts),
    ("unlisted_routes", text),
    ("display", json::value),
    ("codes", json::value),
    ("plan_features", json::value),
    ("wildcards", boolean),
    ("limits", json::value),
    ("charges", texts),
    ("managed_by", text),
    ("usage_log", text),
    ("usage_details", boolean),
    ("error_body", text),
    ("default_lifetime", interval),
    ("max_lifetime", interval),
    ("require_label", boolean),
    ("unique_labels", boolean),
    ("max_idle", interval),
    ("allowlist", networks),
    ("key_limits", json::value),
    ("key_credits", bigint),
    ("issuer", text),
    ("expiring_notice", interval),
    ("failure_limit", json::value),
    ("usage_tags", texts),
];

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum EmptyScopes {
    All,
    Defaults,
    None,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum AtMax {
    Error,
    Replace,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum UnlistedRoutes {
    AnyKey,
    Refuse,
}

/// The features that a plan may include.
#[derive(Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Feature {
    Allowlist,
    ExpiresAt,
    Publishable,
    Grace,
    Limits,
}

/// The prefixes of a keyspace's keys, by kind and environment.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = r#"an object such as {"secret": {"live": "ks_live_", "test": "ks_test_"}}"#
)]
struct Prefixes {
    secret: BTreeMap<Environment, KeyPrefix>,
    publishable: BTreeMap<Environment, KeyPrefix>,
}

fn some_prefixes<'de, D: Deserializer<'de>>(from: D) -> Result<Patch<Prefixes>, D::Error> {
    let prefixes = Prefixes::deserialize(from)?;
    if prefixes.secret.is_empty() && prefixes.publishable.is_empty() {
        return Err(Error::custom("must name at least one prefix"));
    }
    Ok(Patch::Value(prefixes))
}

/// The templates by which keys are shown. Those that are left out are set to their defaults.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Display {
    #[serde(rename(serialize = "display_id"))]
    id: Option<IdTemplate>,
    #[serde(rename(serialize = "display_prefix"))]
    prefix: Option<Template>,
    #[serde(rename(serialize = "display_snippet"))]
    snippet: Option<Template>,
}

/// The answer to clients in place of a canonical one. A string is short for `{"code": …}`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
struct Wording {
    status: Option<Within<400, 599>>,
    code: Option<Line<100>>,
    message: Option<Line<1000>>,
}

impl<'de> Deserialize<'de> for Wording {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wording, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Wording;

            fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                formatter.write_str("a string, or an object of status, code and message")
            }

            fn visit_unit<E: Error>(self) -> Result<Wording, E> {
                Ok(Wording::default())
            }

            fn visit_str<E: Error>(self, code: &str) -> Result<Wording, E> {
                let code = Line::try_from(code.to_owned()).map_err(E::custom)?;
                Ok(Wording { code: Some(code), ..Wording::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Wording, A::Error> {
                Wording::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

text_types! {
    /// A scope, or an expression of scopes, that isn't longer than a scope may be.
    Requirement: is_requirement,
        "must be any_secret, nobody, or what it takes: scopes joined by & and |";
    /// Who issues tokens.
    Principal: is_principal, PRINCIPAL_RULE;
    /// A code of keysmith's own vocabulary.
    Canonical: is_canonical, format!("must be one of: {}", canonical().join(", "));
}

fn is_requirement(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_SCOPE_LEN && Expression::parse(text).is_ok()
}

fn canonical() -> Vec<&'static str> {
    let refusals = Answer::ALL.iter().filter(|answer| **answer != Answer::Ok);
    refusals.map(|answer| answer.code()).collect()
}

fn is_canonical(code: &str) -> bool {
    canonical().contains(&code)
}

#[derive(Deserialize, Serialize)]
#[serde(try_from = "Vec<String>")]
struct SchemeNames(Vec<String>);

impl TryFrom<Vec<String>> for SchemeNames {
    type Error = &'static str;

    fn try_from(names: Vec<String>) -> Result<SchemeNames, &'static str> {
        match Schemes::parse(names.iter().map(String::as_bytes)) {
            Some(_) => Ok(SchemeNames(names)),
            None => Err(SCHEMES_RULE),
        }
    }
}

/// The body of errors: a word, or a template, which may be given as JSON or as its text. It is
/// stored as text.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "Value")]
struct Body(String);

impl TryFrom<Value> for Body {
    type Error = String;

    fn try_from(value: Value) -> Result<Body, String> {
        let text = match value {
            Value::String(text) => text,
            json => json.to_string(),
        };
        ErrorBody::parse(&text).map(|_| Body(text))
    }
}

impl Options {
    /// The arguments of `create_keyspace` after the name. A null leaves the default.
    pub fn given(call: &Call) -> Result<Options> {
        let mut given = Columns::new();
        for (n, (name, read)) in (1..).zip(ARGUMENTS) {
            given.extend(read(call, n, name)?.map(|value| (name.into(), value)));
        }
        json::from_value::<Options>("", Value::Object(given))?.checked()
    }

    /// The argument of `alter_keyspace`.
    pub fn changed(call: &Call, n: usize) -> Result<Options> {
        json::required::<Options>(call, n, "changes")?.checked()
    }

    fn checked(self) -> Result<Options> {
        limits::check_kept(&self.limits)?;
        limits::check_kept(&self.key_limits)?;
        limits::check_counted(self.failure_limit.value().is_some())?;
        Ok(self)
    }

    /// Stores the options of a new keyspace.
    pub fn store(mut self, keyspace: &str) -> Result<()> {
        if self.prefixes.is_absent() {
            self.prefixes = Patch::Value(Prefixes::usual());
        }
        self.apply(keyspace)
    }

    pub fn apply(&self, keyspace: &str) -> Result<()> {
        if let Some(prefixes) = self.prefixes.value() {
            replace("keysmith_private.keyspace_prefix", keyspace, prefixes.rows(keyspace))?;
        }
        if let Some(codes) = self.codes.change() {
            let row = |(canonical, wording): (&Canonical, &Wording)| {
                json!({
                    "keyspace": keyspace,
                    "answer": canonical,
                    "status": wording.status,
                    "code": wording.code,
                    "message": wording.message,
                })
            };
            let rows = codes.into_iter().flatten().map(row).collect();
            replace("keysmith_private.answer", keyspace, rows)?;
        }
        if let Some(features) = self.plan_features.change() {
            // A feature that is null is for all plans, as one that is not named.
            let row = |(feature, plans): (&Feature, &Option<_>)| {
                let plans: Option<&List<Name, MAX_SCOPES>> = plans.as_ref();
                plans.map(
                    |plans| json!({ "keyspace": keyspace, "feature": feature, "plans": plans }),
                )
            };
            let rows = features.into_iter().flatten().filter_map(row).collect();
            replace("keysmith_private.plan_feature", keyspace, rows)?;
        }
        let mut columns = patch::columns(self)?;
        if let Some(display) = self.display.change() {
            columns.extend(patch::record(display.unwrap_or(&Display::default()))?);
        }
        if self.max_lifetime.value().is_some() {
            worker_slot::want();
        }
        let since = (!self.max_idle.is_absent()).then(idle::counted_from);
        let row = ("keyspace", Param::text(keyspace));
        patch::update("keysmith_private.keyspace", row, columns, since)?;
        idle::check_is_recorded(keyspace, self.max_idle.value().is_some())
    }
}

impl Prefixes {
    /// The prefixes of a keyspace that chooses no others.
    fn usual() -> Prefixes {
        let prefixes = |kind: [(&str, &str); 2]| {
            let texts = kind.map(|(environment, prefix)| (environment.into(), prefix.into()));
            BTreeMap::from(
                texts.map(|(environment, prefix)| (Environment(environment), KeyPrefix(prefix))),
            )
        };
        Prefixes {
            secret: prefixes([("live", "ks_live_"), ("test", "ks_test_")]),
            publishable: prefixes([("live", "kp_live_"), ("test", "kp_test_")]),
        }
    }

    fn rows(&self, keyspace: &str) -> Vec<Value> {
        let row = |kind: &'static str| {
            move |(environment, prefix): (&Environment, &KeyPrefix)| {
                json!({
                    "keyspace": keyspace,
                    "kind": kind,
                    "environment": environment,
                    "prefix": prefix,
                })
            }
        };
        let secret = self.secret.iter().map(row("secret"));
        secret.chain(self.publishable.iter().map(row("publishable"))).collect()
    }
}

/// The prefixes of secret keys in a keyspace that chooses no others.
pub fn usual_secret_prefixes() -> Vec<String> {
    Prefixes::usual().secret.into_values().map(|prefix| prefix.0).collect()
}

/// Replaces the rows of a keyspace in a table.
fn replace(table: &'static str, keyspace: &str, rows: Vec<Value>) -> Result<()> {
    let keyspace = Param::text(keyspace);
    spi::execute(&format!("DELETE FROM {table} WHERE keyspace = $1"), &[keyspace])?;
    let rows = Value::Array(rows).to_string();
    spi::execute(
        &format!(
            "INSERT INTO {table}
             SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::{table}, $1::jsonb)"
        ),
        &[Param::text(&rows)],
    )?;
    Ok(())
}

fn text(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    Ok(call.text(n, name)?.map(Value::from))
}

fn required_texts(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    call.strings(n, name).map(|texts| Some(texts.into()))
}

fn texts(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    call.datum(n).map_or(Ok(None), |_| required_texts(call, n, name))
}

fn integer(call: &Call, n: usize, _: &str) -> Result<Option<Value>> {
    Ok(call.integer(n).map(Value::from))
}

/// An interval as a text, as patches have it.
pub fn interval(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    let text = |interval: Interval| {
        let Interval { month, day, time } = interval;
        format!("{month} months {day} days {time} microseconds").into()
    };
    call.datum(n).map(|_| call.interval(n, name).map(text)).transpose()
}

fn bigint(call: &Call, n: usize, _: &str) -> Result<Option<Value>> {
    Ok(call.bigint(n).map(Value::from))
}

fn networks(call: &Call, n: usize, _: &str) -> Result<Option<Value>> {
    Ok(call.datum(n).map(|_| key::allowlist(call, n)).transpose()?.map(Value::from))
}

fn boolean(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    call.datum(n).map(|_| call.boolean(n, name).map(Value::from)).transpose()
}
