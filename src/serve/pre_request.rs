//! `pre_request`: the function that PostgREST calls before each request. PostgREST puts the request
//! into settings of the transaction. A refusal is an error, which PostgREST turns into a response.

use super::outcome::Outcome;
use super::response::object;
use crate::calls::authenticate::{self, HttpRequest};
use crate::calls::client_ip::of_proxies;
use crate::calls::pre_request_settings as settings;
use keysmith_core::http::error::HttpError;
use keysmith_core::http::headers::Header;
use keysmith_core::policy::forwarded::client_behind_proxy;
use keysmith_core::policy::weights::Asked;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::jsonb::Json;
use pg::settings::{custom, set_local};
use pg::{input, text};
use pgrx::pg_sys::Datum;
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::net::IpAddr;

sql_functions! {
    keysmith_pre_request => pre_request;
}

fn pre_request(call: &Call) -> Result<Option<Datum>> {
    let headers = headers()?;
    let headers = headers.as_deref().map(Json::new);
    let (method, path) = (setting(c"request.method"), setting(c"request.path"));
    let keyspace = settings::with_keyspace(CStr::to_owned);
    let request = HttpRequest {
        headers,
        method: method.as_deref().map(CStr::to_bytes),
        path: path.as_deref().map(CStr::to_bytes),
        address: address(headers),
        keyspace: keyspace.to_bytes(),
        variant: None,
        spend: 0,
        weights: Asked::default(),
        subject: None,
    };
    let (verdict, policy) = authenticate::decide::<Outcome>(call.memory(), &request)?;
    let outcome = verdict.record;
    let headers = settings::sends_headers().then(|| outcome.headers(&policy, false));
    if outcome.is_refusal() {
        return Err(refusal(outcome.error, headers.as_deref()));
    }
    add_headers(headers.as_deref().unwrap_or_default());
    Ok(None)
}

/// A setting of the transaction. After one was set, it is empty in later transactions of the
/// session, and no longer missing.
fn setting(name: &CStr) -> Option<CString> {
    custom(name).filter(|value| !value.is_empty())
}

/// The headers as a jsonb. The error does not quote them, since they may contain a key.
fn headers() -> Result<Option<Vec<u8>>> {
    let Some(headers) = setting(c"request.headers") else { return Ok(None) };
    text::from_server(headers.to_bytes())
        .and_then(|json| input::jsonb(&json))
        .map(Some)
        .ok_or_else(|| Error::argument("request.headers", "must be a JSON object"))
}

/// The client's address. PostgREST does not pass on the address that connected to it. If trusted
/// proxies are configured, one of them must have connected.
fn address(headers: Option<Json>) -> Option<IpAddr> {
    let proxies = settings::trusted_proxies();
    if proxies.is_empty() {
        return None;
    }
    let [x_forwarded_for, forwarded] = of_proxies(headers);
    client_behind_proxy(|address| proxies.trusts(address), &x_forwarded_for, &forwarded)
}

/// The headers of an accepted request's response. PostgREST takes an array, in which each header is an
/// object.
fn add_headers(headers: &[Header]) {
    if headers.is_empty() {
        return;
    }
    const NAME: &CStr = c"response.headers";
    let given = setting(NAME).and_then(|given| text::from_server(given.to_bytes()));
    let given = given.and_then(|given| serde_json::from_str::<Vec<Value>>(&given).ok());
    let mut all = given.unwrap_or_default();
    all.extend(headers.iter().map(|(name, value)| json!({ *name: value })));
    set_local(NAME, &text::to_server(&Value::Array(all).to_string()));
}

/// The error that PostgREST turns into a response. It has no other form for the body.
fn refusal(error: HttpError, headers: Option<&[Header]>) -> Error {
    let status = error.status();
    let hint = error.retry_after().map(|seconds| format!("Try again in {seconds} s."));
    let Some(headers) = headers else {
        let raised = Error::new(Code::Refused(digits(status)), error.message).detail(error.code);
        return match hint {
            Some(hint) => raised.hint(hint),
            None => raised,
        };
    };
    let body =
        json!({ "code": error.code, "message": error.message, "details": null, "hint": hint });
    let response = json!({ "status": status, "headers": object(headers) });
    Error::new(Code::RefusedWithHeaders, body.to_string()).detail(response.to_string())
}

/// The three digits of a status.
fn digits(status: i32) -> [u8; 3] {
    let digit = |unit: i32| b'0' + (status / unit).rem_euclid(10) as u8;
    [digit(100), digit(10), digit(1)]
}
