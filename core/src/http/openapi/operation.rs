//! The operation of a method and a path.

use super::{Endpoint, Entry, Needs, Service, errors, security};
use crate::claims::Bound;
use crate::http::operation::{Kind, Named};
use crate::http::status::title;
use crate::policy::expression::Expression;
use crate::policy::limits;
use crate::policy::weights::CALLS;
use serde_json::{Map, Value, json};

pub fn operation(
    service: &Service,
    entry: &Entry,
    method: &str,
    parameters: &[String],
) -> Map<String, Value> {
    let mut operation = Map::new();
    let mut add = |name: &str, value: Value| {
        operation.insert(name.into(), value);
    };
    let needs: Vec<Needs> =
        entry.needs.iter().map(|needs| with_names(needs, entry, parameters)).collect();
    let mut parameters: Vec<Value> =
        parameters.iter().map(|name| path_parameter(entry, name)).collect();
    let mut responses = errors::of(service, entry.endpoint.as_ref());
    match &entry.endpoint {
        Some(endpoint) => {
            add("summary", endpoint.operation.summary().into());
            if is_by_query(endpoint, method) {
                parameters.extend(
                    endpoint
                        .mapping
                        .fields
                        .iter()
                        .map(|(argument, field)| query_parameter(argument, field)),
                );
            } else if let Some(body) = body(endpoint) {
                add("requestBody", body);
            }
            responses.insert(endpoint.status.to_string(), success(endpoint));
        }
        None => {
            add("summary", format!("{} {}", entry.method, entry.pattern).into());
            responses.insert("2XX".into(), json!({"description": "The answer of the application"}));
        }
    }
    if !parameters.is_empty() {
        add("parameters", parameters.into());
    }
    add("responses", responses.into());
    // Only requests without a variant have the operation's own needs.
    let own = needs.iter().find(|needs| needs.variant.is_empty());
    add("security", security(service, entry, own));
    if let Some(needs) = own {
        let told = told(entry, needs);
        if !told.is_empty() {
            add("description", told.into());
        }
        if let Some(limits) = limits(needs) {
            add("x-keysmith-limits", limits);
        }
    }
    let variants = needs.iter().filter(|needs| !needs.variant.is_empty());
    let variants: Map<String, Value> =
        variants.map(|needs| (needs.variant.clone(), variant(service, entry, needs))).collect();
    if !variants.is_empty() {
        add("x-keysmith-variants", variants.into());
    }
    operation
}

/// The needs with the names that the path's parameters have here.
fn with_names<'a>(needs: &Needs<'a>, entry: &Entry, parameters: &[String]) -> Needs<'a> {
    let name = |place: &str| {
        let before = entry.pattern.split('/').skip(1).take(place.parse().ok()?);
        let name = parameters.get(before.filter(|segment| segment.starts_with('{')).count())?;
        Some(format!("{{{name}}}").into())
    };
    Needs { scopes: needs.scopes.filled(&name), ..needs.clone() }
}

fn path_parameter(entry: &Entry, name: &str) -> Value {
    let mut parameter =
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    if entry.endpoint.is_some() && name == "id" {
        parameter["description"] = "The id of a key".into();
    } else if entry.pattern.ends_with("/*") && name.starts_with("rest") {
        parameter["description"] = "One or more segments".into();
    }
    parameter
}

/// Whether arguments come by the query. Bodies of these methods have no meaning that all servers
/// share, but a JSON value has no form in a query.
fn is_by_query(endpoint: &Endpoint, method: &str) -> bool {
    let has_json = endpoint.mapping.fields.iter().any(|(argument, _)| argument.kind == Kind::Json);
    matches!(method, "GET" | "DELETE") && !has_json
}

fn query_parameter(argument: &Named, field: &str) -> Value {
    let schema = Named { may_be_null: false, ..*argument }.schema();
    let mut parameter = json!({"name": field, "in": "query", "schema": schema});
    if matches!(argument.kind, Kind::Texts | Kind::Networks) {
        // As a list with commas.
        parameter["style"] = "form".into();
        parameter["explode"] = false.into();
    }
    parameter
}

/// The body of a request, if it has any fields.
fn body(endpoint: &Endpoint) -> Option<Value> {
    let mapping = &endpoint.mapping;
    if mapping.fields.is_empty() && !mapping.ignores_others {
        return None;
    }
    let fields =
        mapping.fields.iter().map(|(argument, field)| (field.to_string(), argument.schema()));
    let properties: Map<String, Value> = fields.collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !mapping.ignores_others {
        schema["additionalProperties"] = false.into();
    }
    Some(json!({"content": {"application/json": {"schema": schema}}}))
}

fn success(endpoint: &Endpoint) -> Value {
    let mut response = json!({"description": title(endpoint.status)});
    if endpoint.status != 204 {
        response["content"] = json!({"application/json": {"schema": endpoint.template.schema()}});
    }
    response
}

/// An operation that is not for all needs a key, whatever its route says.
fn security(service: &Service, entry: &Entry, needs: Option<&Needs>) -> Value {
    if needs.is_some_and(|needs| is_public(entry, needs)) {
        return json!([]);
    }
    let any = Expression::All(Vec::new());
    security::requirements(service.schemes, needs.map_or(&any, |needs| &needs.scopes))
}

fn is_public(entry: &Entry, needs: &Needs) -> bool {
    needs.is_public
        && entry.endpoint.as_ref().is_none_or(|endpoint| !endpoint.operation.needs_key())
}

/// What a route needs, in words.
fn told(entry: &Entry, needs: &Needs) -> String {
    let mut told = Vec::new();
    if is_public(entry, needs) {
        told.push("Needs no key. A key that is sent is checked.".into());
    }
    let scopes = needs.scopes.to_string();
    match &needs.scopes {
        Expression::Any(parts) if parts.is_empty() => told.push("No key has the scopes.".into()),
        Expression::Scope(_) => told.push(format!("Needs the scope `{scopes}`.")),
        _ if !scopes.is_empty() => told.push(format!("Needs the scopes `{scopes}`.")),
        _ => {}
    }
    if let Some(kind) = &needs.kind {
        told.push(format!("Needs a {kind} key."));
    }
    if needs.weight != 1 {
        told.push(format!("Counts as {} calls.", needs.weight));
    }
    told.join(" ")
}

/// The limits of each key on a route, as they are defined.
fn limits(needs: &Needs) -> Option<Value> {
    let listed = limits::stored(needs.limits?).flatten().map(|limit| {
        let name = String::from_utf8_lossy(limit.name);
        let mut shown = match limit.bound {
            Bound::Rate(rate) => json!({
                "name": name, "limit": rate.limit(), "window": limits::window(rate),
                "burst": rate.burst(),
            }),
            Bound::Concurrent(limit) => json!({"name": name, "concurrent": limit}),
        };
        if limit.unit != CALLS {
            shown["unit"] = String::from_utf8_lossy(limit.unit).into();
        }
        if let Some(per) = limit.per {
            shown["per"] = per.name().into();
        }
        shown
    });
    Some(listed.collect())
}

fn variant(service: &Service, entry: &Entry, needs: &Needs) -> Value {
    let mut variant = json!({"security": security(service, entry, Some(needs))});
    let told = told(entry, needs);
    if !told.is_empty() {
        variant["description"] = told.into();
    }
    if let Some(limits) = limits(needs) {
        variant["x-keysmith-limits"] = limits;
    }
    variant
}
