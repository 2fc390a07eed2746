//! `define_endpoint`, `remove_endpoint`: requests that `serve` answers itself.

use super::authority;
use super::catalogue::Place;
use super::json;
use super::keyspace::{self, policy};
use super::level::functions;
use crate::audit::{Act, Subject};
use keysmith_core::http::operation::Operation;
use keysmith_core::http::request::{MAX_MAPPING_LEN, Mapping};
use keysmith_core::http::template::{MAX_TEMPLATE_LEN, Names, Template};
use keysmith_core::policy::route::place_of;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;
use serde_json::Value;

functions! {
    keysmith_define_endpoint => define_endpoint: Admin;
    keysmith_remove_endpoint => remove_endpoint: Admin;
}

fn subject(place: &Place) -> Subject<'_> {
    Subject::Endpoint { method: &place.method, pattern: &place.pattern }
}

fn define_endpoint(call: &Call) -> Result<Option<Datum>> {
    let place = Place::read(call)?;
    let operation = operation(call, 3)?;
    check_place(&place, operation)?;
    let request = written(call, 4, "request", MAX_MAPPING_LEN)?;
    if let Some((mapping, _)) = &request {
        Mapping::parse(mapping, operation).map_err(|rule| Error::argument("request", rule))?;
    }
    let response = written(call, 5, "response", MAX_TEMPLATE_LEN)?;
    if let Some((template, _)) = &response {
        let names = Names { whole: operation.values(), row: operation.rows() };
        Template::parse(template, names).map_err(|rule| Error::argument("response", rule))?;
    }
    let status = call.integer(6);
    if status.is_some_and(|status| !(200..300).contains(&status)) {
        return Err(Error::argument("status", "must be from 200 to 299"));
    }
    authority::act(needs::define_endpoint, |caller| {
        policy(caller, &place.keyspace)?;
        keyspace::lock(&place.keyspace)?;
        let act = Act::on(&caller.actor, &place.keyspace, subject(&place))?;
        let mut params = place.params();
        let same = spi::first(
            "SELECT pattern FROM keysmith_private.endpoint
             WHERE keyspace = $1 AND method = $2 AND pattern <> $3
               AND keysmith_private.same_paths(pattern, $3)",
            &params,
            |row| row.text(1),
        )?;
        place.check_is_only_one(same)?;
        let text =
            |written: &Option<(Value, String)>| written.as_ref().map(|(_, text)| text.clone());
        let (request, response) = (text(&request), text(&response));
        params.push(Param::text(operation.name()));
        params.push(Param::text_or_null(request.as_deref()));
        params.push(Param::text_or_null(response.as_deref()));
        params.push(Param::integer(status));
        spi::execute(
            "INSERT INTO keysmith_private.endpoint (
                 keyspace, method, pattern, operation, request, response, status)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (keyspace, method, pattern)
             DO UPDATE SET operation = excluded.operation, request = excluded.request,
                 response = excluded.response, status = excluded.status",
            &params,
        )?;
        act.done("define_endpoint")
    })?;
    Ok(None)
}

fn operation(call: &Call, n: usize) -> Result<Operation> {
    const NAME: &str = "operation";
    let name = call.required_text(n, NAME)?;
    Operation::named(&name).ok_or_else(|| {
        let known = Operation::ALL.map(Operation::name).join(", ");
        Error::argument(NAME, format!("must be one of {known}"))
    })
}

/// Checks that requests at a place can do an operation.
fn check_place(place: &Place, operation: Operation) -> Result<()> {
    let name = operation.name();
    match place.method.as_str() {
        "*" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT" => {
            return Err(Error::argument("method", "must be a single method, such as GET or POST")
                .hint("HEAD and OPTIONS are answered wherever there is an endpoint."));
        }
        "GET" if !operation.only_reads() => {
            let rule = format!("must not be GET for {name}, which makes or changes something");
            return Err(Error::argument("method", rule)
                .hint("Browsers and proxies repeat GET, and follow it by themselves."));
        }
        _ => {}
    }
    if place.pattern.ends_with("/*") {
        return Err(Error::argument("pattern", "must not end in /* for an endpoint"));
    }
    if place_of(&place.pattern, "id").is_some() && !operation.takes_key() {
        let rule = format!("must not have {{id}} for {name}, which is about no single key");
        return Err(Error::argument("pattern", rule));
    }
    Ok(())
}

/// A jsonb argument, with the text that is stored of it.
fn written(call: &Call, n: usize, name: &str, most: usize) -> Result<Option<(Value, String)>> {
    let Some(value) = json::value(call, n, name)? else { return Ok(None) };
    let text = value.to_string();
    if text.len() > most {
        return Err(Error::argument(name, format!("must have at most {most} bytes")));
    }
    Ok(Some((value, text)))
}

fn remove_endpoint(call: &Call) -> Result<Option<Datum>> {
    let place = Place::read(call)?;
    authority::act(needs::remove_endpoint, |caller| {
        policy(caller, &place.keyspace)?;
        keyspace::lock(&place.keyspace)?;
        let act = Act::on(&caller.actor, &place.keyspace, subject(&place))?;
        let removed = spi::execute(
            "DELETE FROM keysmith_private.endpoint
             WHERE keyspace = $1 AND method = $2 AND pattern = $3",
            &place.params(),
        )?;
        if removed == 0 {
            let Place { method, pattern, .. } = &place;
            return Err(Error::not_found(format!("endpoint {method} {pattern} does not exist")));
        }
        act.done("remove_endpoint")
    })?;
    Ok(None)
}
