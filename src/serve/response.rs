//! `response_headers` and `problem`: what a verdict says over HTTP.

use super::outcome::Outcome;
use keysmith_core::http::headers::Header;
use pg::call::{Call, sql_functions};
use pg::datum;
use pg::error::Result;
use pgrx::pg_sys::Datum;
use serde_json::Value;

sql_functions! {
    keysmith_response_headers => response_headers;
    keysmith_problem => problem;
}

fn response_headers(call: &Call) -> Result<Option<Datum>> {
    let Some(outcome) = Outcome::given(call, 0) else { return Ok(None) };
    let headers = outcome.headers(&*outcome.policy()?, false);
    Ok(Some(datum::jsonb(&object(&headers).to_string())))
}

fn problem(call: &Call) -> Result<Option<Datum>> {
    let refusal = Outcome::given(call, 0).filter(Outcome::is_refusal);
    Ok(refusal.map(|outcome| datum::jsonb(&outcome.error.problem().to_string())))
}

/// Headers as a JSON object.
pub fn object(headers: &[Header]) -> Value {
    let fields = headers.iter();
    fields.map(|(name, value)| (String::from(*name), Value::from(value.as_str()))).collect()
}
