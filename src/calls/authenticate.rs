//! `authenticate`: a request's headers, method and path in, a verdict out.

use super::arguments;
use super::decision::{self, Decision, name};
use crate::catalog::policy::{Policy, Route};
use crate::decide::lookup::Reader;
use crate::decide::needs::Needs;
use crate::decide::presented::Presented;
use crate::verdict::Verdict;
use keysmith_core::policy::header::{Credential, Finder, Schemes, Value};
use keysmith_core::policy::route::{Match, Path, is_requested_method};
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::jsonb::Json;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_authenticate => authenticate;
}

/// Where the arguments are.
mod position {
    pub const HEADERS: usize = 0;
    pub const METHOD: usize = 1;
    pub const IP: usize = 3;
    pub const KEYSPACE: usize = 4;
    pub const VARIANT: usize = 5;
    pub const SPEND: usize = 6;
    pub const WEIGHT: usize = 7;
}

fn authenticate(call: &Call) -> Result<Option<Datum>> {
    decide(call).map(|(verdict, _)| Some(verdict.row.into_datum()))
}

/// The verdict, and by which schemes the keyspace takes its keys.
pub fn decide(call: &Call) -> Result<(Verdict, Schemes)> {
    let catalog = decision::catalog()?;
    let reader = Reader::new(&catalog);
    let keyspace = name(call, position::KEYSPACE).unwrap_or_default();
    let (policy, sought) = reader
        .sought(keyspace, |policy| presented(call.json(position::HEADERS), policy.schemes))?;
    let required = required(call, &policy, position::METHOD, position::VARIANT);
    let mut decision = Decision::new(&reader, policy.clone(), keyspace, &required.needs);
    decision.demand.kind = required.kind;
    decision.demand.address = call.address(position::IP);
    decision.signs_in = true;
    decision.request.method = logged(call, position::METHOD);
    decision.request.path = logged(call, position::METHOD + 1);
    decision.charge.route = required.route;
    decision.charge.spend = arguments::spend(call, position::SPEND)?;
    decision.charge.weight =
        arguments::weight(call, position::WEIGHT)?.unwrap_or(required.weight());
    Ok((decision.verdict(sought)?, policy.schemes))
}

/// An argument as usage records take it: one that is too long to decide about is
/// cut there.
fn logged(call: &Call, n: usize) -> Option<&[u8]> {
    match call.bytes(n, usize::MAX) {
        Some(Bytes::Read(text)) => Some(text),
        _ => None,
    }
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

/// What the request's route requires: of the key's scopes, and of its kind.
pub struct Required<'a> {
    pub needs: Needs<'a>,
    pub kind: Option<&'a [u8]>,
    /// Its definition, if it is listed.
    pub route: Option<&'a Route>,
}

impl Required<'_> {
    /// How many calls the request counts for.
    pub fn weight(&self) -> u32 {
        self.route.map_or(1, |route| route.weight)
    }
}

/// Reads method and path, from the argument `method` on, and `variant`. A request
/// without them, or with a path that servers may understand in different ways, gets
/// nowhere.
pub fn required<'a>(
    call: &Call,
    policy: &'a Policy,
    method: usize,
    variant: usize,
) -> Required<'a> {
    const MOST: usize = 1024;
    const MOST_WITH_QUERY: usize = 64 * 1024;
    let impossible = |why: &'static str| Required {
        needs: Needs::Impossible(why.into()),
        kind: None,
        route: None,
    };
    let method_name = match call.bytes(method, MOST) {
        Some(Bytes::Read(name)) if is_requested_method(name) => name,
        _ => return impossible("the request has no method"),
    };
    let Some(Bytes::Read(path)) = call.bytes(method + 1, MOST_WITH_QUERY) else {
        return impossible("the request has no path, or one that is too long");
    };
    let Some(path) = Path::parse(path) else {
        return impossible("servers may understand the path in different ways");
    };
    let variant = match call.bytes(variant, MOST) {
        None => &b""[..],
        Some(Bytes::Read(variant)) => variant,
        Some(Bytes::TooLong) => return impossible("the variant is too long"),
    };
    match policy.route(method_name, &path, variant) {
        Match::Route(route) => Required {
            needs: Needs::Route(&route.scopes),
            kind: route.kind.as_deref(),
            route: Some(route),
        },
        Match::UnknownVariant => impossible("the route has no such variant"),
        Match::Unlisted if policy.refuses_unlisted_routes => impossible("the route is not listed"),
        Match::Unlisted => Required { needs: Needs::Nothing, kind: None, route: None },
    }
}
