//! `authenticate`: decides about a request by its headers, method and path.

use super::arguments;
use super::decision::{self, Decision, name};
use crate::catalog::policy::{Policy, Route};
use crate::decide::lookup::Reader;
use crate::decide::needs::NeededScopes;
use crate::decide::presented::{Presented, Sought};
use crate::decide::token;
use crate::verdict::{self, Form, Row, Verdict};
use keysmith_core::policy::header::{Credential, Finder, HeaderValue, Schemes};
use keysmith_core::policy::route::{Match, Path, is_requested_method};
use keysmith_core::policy::verdict::Reason;
use keysmith_core::policy::weights::Asked;
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::jsonb::Json;
use pg::scratch::Memory;
use pgrx::pg_sys::Datum;
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

sql_functions! {
    keysmith_authenticate => authenticate;
    keysmith_authenticate_json => authenticate_json;
}

/// A request to decide about.
pub struct HttpRequest<'a> {
    pub headers: Option<Json<'a>>,
    pub method: Option<&'a [u8]>,
    pub path: Option<&'a [u8]>,
    pub address: Option<IpAddr>,
    pub keyspace: &'a [u8],
    pub variant: Option<&'a [u8]>,
    pub spend: i64,
    /// A weight in calls that is not given is that of the route.
    pub weights: Asked<'a>,
    pub subject: Option<&'a [u8]>,
}

fn authenticate(call: &Call) -> Result<Option<Datum>> {
    let (verdict, _) = decide::<Row>(call.memory(), &request(call)?)?;
    Ok(Some(verdict.record.into_datum()))
}

fn authenticate_json(call: &Call) -> Result<Option<Datum>> {
    let (verdict, _) = decide::<verdict::Json>(call.memory(), &request(call)?)?;
    Ok(Some(verdict.record.into_datum()))
}

fn request(call: &Call) -> Result<HttpRequest<'_>> {
    Ok(HttpRequest {
        headers: call.json(0),
        method: text(call, 1),
        path: text(call, 2),
        address: call.address(3),
        keyspace: name(call, 4).unwrap_or_default(),
        variant: text(call, 5),
        spend: arguments::spend(call, 6)?,
        weights: arguments::weights(call, Some(7), 8)?,
        subject: arguments::subject(call, 9)?,
    })
}

/// Decides about a request. Returns the verdict, and the policy that it follows.
pub fn decide<'m, F: Form>(
    memory: Memory<'m>,
    request: &HttpRequest,
) -> Result<(Verdict<'m, F>, Rc<Policy>)> {
    let catalog = decision::catalog(request.keyspace)?;
    let reader = Reader::new(&catalog);
    let (policy, sought) = seek(memory, &reader, request)?;
    let required = required(request.method, &path(request.path), request.variant, &policy);
    let verdict = decide_by(memory, &reader, &policy, sought, request, &required)?;
    Ok((verdict, policy))
}

/// The bytes that the key is looked up by, or the reason to refuse it.
pub type Seeking<'a> = std::result::Result<Sought<'a>, Reason>;

/// The policy to decide by, and the key that the request presents.
pub fn seek<'m>(
    memory: Memory<'m>,
    reader: &Reader,
    request: &HttpRequest<'m>,
) -> Result<(Rc<Policy>, Seeking<'m>)> {
    reader.sought(request.keyspace, |policy| presented(memory, request.headers, &policy.schemes))
}

/// Decides about a request by a policy, and what it requires.
pub fn decide_by<'m, F: Form>(
    memory: Memory<'m>,
    reader: &Reader,
    policy: &Rc<Policy>,
    sought: Seeking,
    request: &HttpRequest,
    required: &RouteRequirement,
) -> Result<Verdict<'m, F>> {
    let mut decision = Decision::new(reader, policy.clone(), request.keyspace, &required.needs);
    decision.demand.kind = required.kind;
    decision.demand.address = request.address;
    decision.signs_in = true;
    decision.is_public = !required.needs_key && required.route.is_some_and(|route| route.is_public);
    // Usage records cut a method or path that is too long.
    decision.request.method = request.method;
    decision.request.path = request.path;
    decision.charge.route = required.route;
    decision.charge.spend = request.spend;
    decision.charge.weights = request.weights.weights(required.weight());
    decision.charge.can_settle = request.weights.are_told();
    decision.charge.subject = request.subject;
    decision.verdict(memory, sought)
}

/// A text argument of any length.
pub fn text(call: &Call, n: usize) -> Option<&[u8]> {
    match call.bytes(n, usize::MAX) {
        Some(Bytes::Read(text)) => Some(text),
        _ => None,
    }
}

/// The key in a request's headers: an object whose values are texts, or arrays of texts.
pub fn presented<'a>(
    memory: Memory<'a>,
    headers: Option<Json<'a>>,
    schemes: &Schemes,
) -> Presented<'a> {
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
        Credential::Key(key) if !token::has_fitting_length(&key) => Presented::Garbage,
        Credential::Key(Cow::Borrowed(key)) => Presented::Key(key),
        Credential::Key(Cow::Owned(key)) => Presented::Key(memory.copy(&key)),
    }
}

fn header_value(value: Json<'_>) -> HeaderValue<'_> {
    match value {
        Json::Text(text) => HeaderValue::Text(text),
        Json::Null => HeaderValue::Null,
        _ => HeaderValue::Other,
    }
}

/// What the request's route requires: scopes, and a kind of key.
pub struct RouteRequirement<'a> {
    pub needs: NeededScopes<'a>,
    pub kind: Option<&'a [u8]>,
    /// The route's definition, if it is listed.
    pub route: Option<&'a Route>,
    /// Whether it needs a key, even if its route is public.
    pub needs_key: bool,
}

impl RouteRequirement<'_> {
    /// How many calls the request counts for.
    pub fn weight(&self) -> u32 {
        self.route.map_or(1, |route| route.weight)
    }
}

/// The path of a request, or why it matches no route.
pub type RequestPath = std::result::Result<Path, &'static str>;

pub fn path(text: Option<&[u8]>) -> RequestPath {
    const MOST_WITH_QUERY: usize = 64 * 1024;
    let text = text.filter(|text| text.len() <= MOST_WITH_QUERY);
    let text = text.ok_or("the request has no path, or one that is too long")?;
    Path::parse(text).ok_or("servers may understand the path in different ways")
}

/// The requirements of a request, from its method, path and variant. A request without a method or
/// path is refused, and so is a path that servers may understand in different ways.
pub fn required<'a>(
    method: Option<&[u8]>,
    path: &RequestPath,
    variant: Option<&[u8]>,
    policy: &'a Policy,
) -> RouteRequirement<'a> {
    const MOST: usize = 1024;
    let impossible = |why: &'static str| RouteRequirement {
        needs: NeededScopes::Impossible(why.into()),
        kind: None,
        route: None,
        needs_key: false,
    };
    let method = match method {
        Some(name) if name.len() <= MOST && is_requested_method(name) => name,
        _ => return impossible("the request has no method"),
    };
    let path = match path {
        Ok(path) => path,
        Err(why) => return impossible(why),
    };
    let variant = variant.unwrap_or_default();
    if variant.len() > MOST {
        return impossible("the variant is too long");
    }
    match policy.route(method, path, variant) {
        Match::Route(route) => RouteRequirement {
            needs: NeededScopes::Route(route.needs(path)),
            kind: route.kind.as_deref(),
            route: Some(route),
            needs_key: false,
        },
        Match::UnknownVariant => impossible("the route has no such variant"),
        Match::Unlisted if policy.refuses_unlisted_routes => impossible("the route is not listed"),
        Match::Unlisted if policy.routes().has_in_any_case(method, path) => {
            impossible("the path differs from a route in upper and lower case only")
        }
        Match::Unlisted => RouteRequirement {
            needs: NeededScopes::Nothing,
            kind: None,
            route: None,
            needs_key: false,
        },
    }
}
