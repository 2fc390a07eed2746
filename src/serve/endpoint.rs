//! The endpoint of a request, and what it does.

use super::failure::Failure;
use super::operations;
use crate::calls::client_ip::values_of;
use crate::catalog::policy::{self, Policy};
use keysmith_core::http::operation::Operation;
use keysmith_core::http::query;
use keysmith_core::http::request::Mapping;
use keysmith_core::http::template::{MAX_BODY_LEN, Names, Template};
use keysmith_core::policy::route::{self, Match, Path, is_as_specific};
use keysmith_core::policy::verdict::Answer;
use pg::error::{Code, Error};
use pg::jsonb::{Json, Jsonb};
use serde_json::Value;
use std::collections::BTreeSet;
use std::num::IntErrorKind;

/// Who answers a request.
pub enum Place<'p> {
    Endpoint(Endpoint<'p>),
    /// There are endpoints for the path, but for these methods.
    OtherMethods(String),
    /// The request asks for the methods.
    Options(String),
    /// The application.
    Elsewhere,
}

/// An endpoint of the key service, and the id that the path has.
pub struct Endpoint<'p> {
    of: &'p policy::Endpoint,
    id: Option<String>,
}

impl<'p> Place<'p> {
    pub fn of(policy: &'p Policy, method: Option<&[u8]>, path: Option<&Path>) -> Place<'p> {
        let (Some(method), Some(path)) = (method, path) else { return Place::Elsewhere };
        let Some((_, first)) = policy.endpoints().at(path).next() else { return Place::Elsewhere };
        // A listed route that is as specific belongs to the application.
        let is_theirs = |method: &[u8]| match policy.route(method, path, b"") {
            Match::Route(route) => is_as_specific(route.pattern(), &first.pattern),
            Match::UnknownVariant => true,
            Match::Unlisted => false,
        };
        if let Match::Route(found) = policy.endpoints().find(method, path, b"") {
            // The decision is by the most specific route. The work must be that route's, too.
            let mut routes = policy.variants(method, path);
            let is_theirs = routes.any(|route| !is_as_specific(&found.pattern, route.pattern()));
            return match is_theirs {
                true => Place::Elsewhere,
                false => Place::Endpoint(Endpoint { of: found, id: id(found, path) }),
            };
        }
        let asks = method.eq_ignore_ascii_case(b"OPTIONS");
        let has_own_options = || {
            let mut routes = policy.routes_at(path);
            routes.any(|(method, _)| method.eq_ignore_ascii_case(b"OPTIONS"))
        };
        match asks {
            true if has_own_options() => Place::Elsewhere,
            true => Place::Options(methods(policy, path)),
            false if is_theirs(method) => Place::Elsewhere,
            false => Place::OtherMethods(methods(policy, path)),
        }
    }
}

/// The methods of a path with endpoints, as the header `Allow` lists them.
fn methods(policy: &Policy, path: &Path) -> String {
    let endpoints = policy.endpoints().at(path).map(|(method, _)| method);
    let routes = policy.routes_at(path).map(|(method, _)| method);
    let listed = endpoints.chain(routes).filter(|method| **method != *b"*");
    let mut methods: BTreeSet<String> = listed.map(pg::text::lossy).collect();
    if methods.contains("GET") {
        methods.insert("HEAD".into());
    }
    methods.insert("OPTIONS".into());
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

/// The `{id}` of a path.
fn id(endpoint: &policy::Endpoint, path: &Path) -> Option<String> {
    let pattern = std::str::from_utf8(&endpoint.pattern).ok()?;
    let place = route::place_of(pattern, "id")?;
    // Segments are decoded: they are UTF-8 whatever the encoding of the database.
    path.segment(place).and_then(|segment| String::from_utf8(segment.into()).ok())
}

/// A request to an endpoint.
pub struct Request<'a> {
    pub path: Option<&'a [u8]>,
    pub headers: Option<Json<'a>>,
    pub body: Option<Jsonb<'a>>,
    pub keyspace: &'a [u8],
}

/// The keys of a page, if the request does not say how many.
const USUAL_KEYS: i32 = 100;

/// What an endpoint answers.
pub struct Done {
    pub status: i32,
    /// As JSON text.
    pub body: Option<String>,
    pub shows_key: bool,
}

impl Endpoint<'_> {
    pub fn needs_key(&self) -> bool {
        self.of.operation.needs_key()
    }

    /// Does what the endpoint is for.
    pub fn done(&self, request: &Request) -> Result<Done, Failure> {
        let operation = self.of.operation;
        let (Some(mapping), Some(template)) = (mapping(self.of), template(self.of)) else {
            return Err(Failure::of(Answer::InternalError));
        };
        let mut arguments = arguments(request, &mapping)?;
        // Who can ask for the next page gets a short one.
        if operation == Operation::ListKeys && mapping.field_of("per_page").is_some() {
            arguments.entry("per_page").or_insert(USUAL_KEYS.into());
        }
        let status = status(self.of);
        let body =
            operations::run(operation, request.keyspace, self.id.as_deref(), arguments, |values| {
                let body = (status != 204).then(|| template.fill(&values.whole, &values.rows));
                match &body {
                    Some(body) if body.len() > MAX_BODY_LEN => Err(Error::new(
                        Code::InvalidArgument,
                        format!("the answer would have more than {MAX_BODY_LEN} bytes"),
                    )),
                    _ => Ok(body),
                }
            });
        let body = body.map_err(|failure| failure.with_fields(&mapping))?;
        Ok(Done { status, body, shows_key: operation.shows_key() })
    }
}

/// The status of an endpoint's answers.
pub fn status(of: &policy::Endpoint) -> i32 {
    of.status.unwrap_or(of.operation.status())
}

/// The mapping of an endpoint. Definitions are checked when they are made.
pub fn mapping(of: &policy::Endpoint) -> Option<Mapping> {
    match &of.request {
        None => Some(Mapping::usual(of.operation)),
        Some(text) => Mapping::parse(&parsed(text)?, of.operation).ok(),
    }
}

/// The template of an endpoint's answers.
pub fn template(of: &policy::Endpoint) -> Option<Template> {
    let operation: Operation = of.operation;
    let names = Names { whole: operation.values(), row: operation.rows() };
    let template = match &of.response {
        None => operation.template(),
        Some(text) => parsed(text)?,
    };
    Template::parse(&template, names).ok()
}

fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// The arguments that a request has.
fn arguments(
    request: &Request,
    mapping: &Mapping,
) -> Result<serde_json::Map<String, Value>, Failure> {
    /// More than the arguments of any operation need.
    const MOST: usize = 128 * 1024;
    const MOST_LEVELS: usize = 100;
    let is_longer = |length: &[u8]| {
        std::str::from_utf8(length).is_ok_and(|length| match length.trim().parse::<usize>() {
            Ok(length) => length > MOST,
            Err(error) => *error.kind() == IntErrorKind::PosOverflow,
        })
    };
    if values_of(request.headers, b"content-length").into_iter().any(is_longer) {
        return Err(Failure::of(Answer::ContentTooLarge));
    }
    let body = match request.body {
        None => None,
        Some(body) if body.length() > MOST => return Err(Failure::of(Answer::ContentTooLarge)),
        Some(body) => {
            let text = if body.is_plain(MOST_LEVELS) { body.text() } else { None };
            let value = text.as_deref().and_then(parsed).ok_or_else(|| {
                Failure::invalid(format!(
                    "the body must be a JSON object of at most {MOST_LEVELS} levels, with numbers \
                     that a double has"
                ))
            })?;
            Some(value).filter(|value| !value.is_null())
        }
    };
    if body.is_some() && !is_json(request.headers) {
        return Err(Failure::of(Answer::UnsupportedMediaType));
    }
    let query = query::fields(request.path.unwrap_or_default())
        .map_err(|why| Failure::invalid(format!("the query {why}")))?;
    mapping.arguments(body.as_ref(), query).map_err(|fault| Failure::invalid(fault.message))
}

/// Whether the headers allow a JSON body. Without a header it is taken as JSON. So is a form's type,
/// which curl sends with `-d`.
fn is_json(headers: Option<Json>) -> bool {
    values_of(headers, b"content-type").into_iter().all(|text| {
        let text = String::from_utf8_lossy(text).to_ascii_lowercase();
        let kind = text.split(';').next().unwrap_or_default().trim();
        kind == "application/json"
            || kind == "application/x-www-form-urlencoded"
            || kind.starts_with("application/") && kind.ends_with("+json")
    })
}
