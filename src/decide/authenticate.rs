//! `authenticate`: a request's headers, method and path in, a verdict out.

use super::decision::{Decision, Presented, name};
use super::needs::Needs;
use crate::call::{Bytes, Call, sql_functions};
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::error::Result;
use crate::jsonb::Json;
use keysmith_core::policy::header::{Credential, Finder, Schemes, Value};
use keysmith_core::policy::route::{MAX_PATH_LEN, Match, Path};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_authenticate => authenticate;
}

fn authenticate(call: &Call) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    let keyspace = name(call, 4).unwrap_or_default();
    let policy = catalog.policy(keyspace)?;
    let needs = needs(&policy, name(call, 1), call.bytes(2, MAX_PATH_LEN), name(call, 5));
    let mut decision = Decision::new(&catalog, keyspace, &needs)?;
    decision.demand.address = call.address(3);
    let verdict = decision.verdict(None, presented(call.json(0), policy.schemes))?;
    Ok(Some(verdict.into_datum()))
}

/// The key in a request's headers: an object of names with a text, or an array of
/// texts, each.
pub fn presented(headers: Option<Json<'_>>, schemes: Schemes) -> Presented<'_> {
    let mut finder = Finder::new(schemes);
    match headers {
        None | Some(Json::Null) => {}
        Some(Json::Object(headers)) => {
            for (name, value) in headers.pairs() {
                match value {
                    _ if !finder.is_relevant(name) => {}
                    Json::Array(values) => {
                        values.children().for_each(|value| finder.add(name, header_value(value)));
                    }
                    value => finder.add(name, header_value(value)),
                }
            }
        }
        Some(_) => return Presented::MalformedHeader,
    }
    match finder.credential() {
        Credential::Missing => Presented::Nothing,
        Credential::Malformed => Presented::MalformedHeader,
        Credential::Key(key) if key.len() > keysmith_core::key::MAX_KEY_LEN => Presented::Garbage,
        Credential::Key(key) => Presented::Key(key),
    }
}

fn header_value(value: Json<'_>) -> Value<'_> {
    match value {
        Json::Text(text) => Value::Text(text),
        Json::Null => Value::Null,
        _ => Value::Other,
    }
}

/// What the request's route requires. A request without a method or a path, or with
/// one that servers may understand in different ways, gets nowhere.
pub fn needs<'a>(
    policy: &'a Policy,
    method: Option<&[u8]>,
    path: Option<Bytes>,
    variant: Option<&[u8]>,
) -> Needs<'a> {
    let (Some(method), Some(Bytes::Read(path))) = (method, path) else { return Needs::Impossible };
    let Some(path) = Path::parse(path) else { return Needs::Impossible };
    if method.is_empty() {
        return Needs::Impossible;
    }
    match policy.route(method, &path, variant.unwrap_or_default()) {
        Match::Route(expression) => Needs::Route(expression),
        Match::UnknownVariant => Needs::Impossible,
        Match::Unlisted if policy.refuses_unlisted_routes => Needs::Impossible,
        Match::Unlisted => Needs::Nothing,
    }
}
