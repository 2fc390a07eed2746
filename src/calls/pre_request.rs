//! `pre_request`: the function that PostgREST calls before each request. PostgREST puts the request
//! into settings of the transaction. A refusal is an error, which PostgREST turns into a response.

use super::authenticate::{self, HttpRequest};
use super::client_ip::collect;
use super::pre_request_settings as settings;
use crate::catalog::policy::Policy;
use crate::verdict::{Row, Verdict, Words};
use keysmith_core::policy::forwarded::client_behind_proxy;
use keysmith_core::policy::header::Schemes;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::jsonb::Json;
use pg::settings::custom;
use pg::{input, text};
use pgrx::pg_sys::Datum;
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
        weight: None,
    };
    let (verdict, policy) = authenticate::decide::<Row>(call.memory(), &request)?;
    if verdict.reason.is_good() {
        return Ok(None);
    }
    Err(Answer::of(&verdict, &policy).refusal(&policy.schemes))
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
    let Some(Json::Object(headers)) = headers else { return None };
    if proxies.is_empty() {
        return None;
    }
    let (mut x_forwarded_for, mut forwarded) = (Vec::new(), Vec::new());
    collect(headers, b"x-forwarded-for", &mut x_forwarded_for);
    collect(headers, b"forwarded", &mut forwarded);
    client_behind_proxy(|address| proxies.trusts(address), &x_forwarded_for, &forwarded)
}

/// The answer for the client.
struct Answer {
    status: i32,
    code: String,
    message: String,
    /// In whole seconds, rounded up.
    retry_after: Option<i64>,
}

impl Answer {
    fn of(verdict: &Verdict, policy: &Policy) -> Answer {
        let words = Words::of(policy, verdict.reason);
        let seconds = |wait: i64| wait.max(1).saturating_add(999_999) / 1_000_000;
        Answer {
            status: words.status,
            code: text::lossy(words.code),
            message: text::lossy(words.message),
            retry_after: verdict.retry_after.map(seconds),
        }
    }

    fn refusal(self, schemes: &Schemes) -> Error {
        let hint = self.retry_after.map(|seconds| format!("Try again in {seconds} s."));
        if settings::sends_headers() {
            let body = serde_json::json!({
                "code": self.code,
                "message": self.message,
                "details": null,
                "hint": hint,
            });
            let mut headers = serde_json::Map::new();
            if self.status == 401
                && let challenges = schemes.challenges().collect::<Vec<_>>().join(", ")
                && !challenges.is_empty()
            {
                headers.insert("WWW-Authenticate".into(), challenges.into());
            }
            if let Some(seconds) = self.retry_after {
                headers.insert("Retry-After".into(), seconds.to_string().into());
            }
            let response = serde_json::json!({ "status": self.status, "headers": headers });
            return Error::new(Code::RefusedWithHeaders, body.to_string())
                .detail(response.to_string());
        }
        let error = Error::new(Code::Refused(digits(self.status)), self.message).detail(self.code);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The three digits of a status.
fn digits(status: i32) -> [u8; 3] {
    let digit = |unit: i32| b'0' + (status / unit).rem_euclid(10) as u8;
    [digit(100), digit(10), digit(1)]
}
