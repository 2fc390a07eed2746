//! `pre_request`: what PostgREST calls before each request. It has put the request into
//! settings of the transaction; a refusal is an error that it makes a response of.

use super::authenticate;
use super::client_ip::{collect, inet};
use super::pre_request_settings as settings;
use keysmith_core::policy::forwarded::client_behind_proxy;
use keysmith_core::policy::header::Schemes;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::jsonb::Json;
use pg::{text, varlena};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

sql_functions! {
    keysmith_pre_request => pre_request;
}

fn pre_request(_: &Call) -> Result<Option<Datum>> {
    let headers = headers()?;
    let arguments = [
        headers,
        setting(c"request.method").map(text_datum),
        setting(c"request.path").map(text_datum),
        address(headers),
        settings::with_keyspace(|name| Some(text_datum(name))),
        None,
        Some(Datum::from(0_i64)),
        None,
    ];
    // SAFETY: the frame has the arguments of `authenticate`, and outlives the call.
    let (verdict, schemes) = authenticate::decide(&unsafe { Call::new(frame(&arguments)) })?;
    let answer = Answer::read(verdict.row.into_datum());
    if answer.ok { Ok(None) } else { Err(answer.refusal(schemes)) }
}

/// A setting of the transaction; once one was set, it is empty in the session's later
/// transactions, and no longer missing.
fn setting(name: &CStr) -> Option<&CStr> {
    // SAFETY: the value is a C string that lives until the setting changes, which
    // nothing does before it is copied or read.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false).as_ref() };
    // SAFETY: as above.
    value.map(|first| unsafe { CStr::from_ptr(first) }).filter(|value| !value.is_empty())
}

/// The headers as a jsonb. What is wrong with them is not quoted: a key may be in it.
fn headers() -> Result<Option<Datum>> {
    let Some(headers) = setting(c"request.headers") else { return Ok(None) };
    text::from_server(headers.to_bytes())
        .and_then(|json| text::parsed(pg_sys::F_JSONB_IN, pg_sys::Oid::INVALID, &json))
        .map(Some)
        .ok_or_else(|| Error::argument("request.headers", "must be a JSON object"))
}

/// The client's address. PostgREST does not tell whom it was called by; where proxies are
/// trusted, it must have been one of them.
fn address(headers: Option<Datum>) -> Option<Datum> {
    let proxies = settings::trusted_proxies();
    // SAFETY: the datum is a jsonb.
    let headers = headers.map(|datum| Json::new(unsafe { varlena::bytes(datum) }));
    let Some(Json::Object(headers)) = headers else { return None };
    if proxies.is_empty() {
        return None;
    }
    let (mut x_forwarded_for, mut forwarded) = (Vec::new(), Vec::new());
    collect(headers, b"x-forwarded-for", &mut x_forwarded_for);
    collect(headers, b"forwarded", &mut forwarded);
    client_behind_proxy(|address| proxies.trusts(address), &x_forwarded_for, &forwarded)
        .and_then(inet)
}

/// A C string in the database's encoding as a text.
fn text_datum(value: &CStr) -> Datum {
    pg::datum::bytes(value.to_bytes())
}

/// A call's frame with these arguments, in the current memory context.
fn frame(arguments: &[Option<Datum>]) -> pg_sys::FunctionCallInfo {
    let size = size_of::<pg_sys::FunctionCallInfoBaseData>()
        + size_of_val(arguments) / size_of::<Option<Datum>>() * size_of::<pg_sys::NullableDatum>();
    // SAFETY: the frame is as large as its head and its arguments, and all zero at first,
    // which is a frame without arguments.
    unsafe {
        let frame = pg_sys::palloc0(size).cast::<pg_sys::FunctionCallInfoBaseData>();
        (*frame).nargs = arguments.len() as i16;
        let first = (*frame).args.as_mut_ptr();
        for (n, argument) in arguments.iter().enumerate() {
            let value = argument.unwrap_or(Datum::null());
            first.add(n).write(pg_sys::NullableDatum { value, isnull: argument.is_none() });
        }
        frame
    }
}

/// What the client is told.
struct Answer {
    ok: bool,
    status: i32,
    code: String,
    message: String,
    /// In whole seconds, of which none is too early.
    retry_after: Option<i64>,
}

impl Answer {
    fn read(verdict: Datum) -> Answer {
        // SAFETY: the datum is a verdict, whose columns have these names and types.
        let column = |name: &CStr| unsafe {
            let mut is_null = false;
            let row = pg_sys::pg_detoast_datum(verdict.cast_mut_ptr()).cast();
            let value = pg_sys::GetAttributeByName(row, name.as_ptr(), &mut is_null);
            (!is_null).then_some(value)
        };
        // SAFETY: a text.
        let words = |name| column(name).map(|datum| text::lossy(unsafe { varlena::bytes(datum) }));
        let retry_after = column(c"retry_after").map(|datum| {
            // SAFETY: an interval, which holds nothing but microseconds.
            let microseconds = unsafe { (*datum.cast_mut_ptr::<pg_sys::Interval>()).time };
            microseconds.max(1).saturating_add(999_999) / 1_000_000
        });
        Answer {
            ok: column(c"ok").is_some_and(|datum| datum.value() != 0),
            status: column(c"status").map_or(0, |datum| datum.value() as i32),
            code: words(c"code").unwrap_or_default(),
            message: words(c"message").unwrap_or_default(),
            retry_after,
        }
    }

    fn refusal(self, schemes: Schemes) -> Error {
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
                && let Some(challenge) = schemes.challenge()
            {
                headers.insert("WWW-Authenticate".into(), challenge.into());
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

/// The digits of a status, which has three.
fn digits(status: i32) -> [u8; 3] {
    let digit = |unit: i32| b'0' + (status / unit).rem_euclid(10) as u8;
    [digit(100), digit(10), digit(1)]
}
