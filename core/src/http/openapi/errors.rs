//! Errors: one response for each status, and the form of their body.

use super::{Endpoint, Service};
use crate::http::error::HttpError;
use crate::http::error_body::ErrorBody;
use crate::http::status::title;
use crate::policy::verdict::Answer;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The refusals of any request with a key.
const REFUSALS: [Answer; 16] = [
    Answer::MissingAuthorization,
    Answer::InvalidAuthorization,
    Answer::InvalidApiKey,
    Answer::TokenInvalid,
    Answer::TokenExpired,
    Answer::Revoked,
    Answer::Expired,
    Answer::Disabled,
    Answer::Idle,
    Answer::TooManyFailures,
    Answer::IpNotAllowed,
    Answer::InsufficientKind,
    Answer::InsufficientScope,
    Answer::RateLimited,
    Answer::CreditsExhausted,
    Answer::Unavailable,
];

/// The errors that an operation may have. `None` stands for one of the application's, which may
/// have more.
fn answers(endpoint: Option<&Endpoint>) -> Vec<Answer> {
    let mut answers = REFUSALS.to_vec();
    if let Some(Endpoint { operation, .. }) = endpoint {
        answers.extend([
            Answer::InvalidRequest,
            Answer::Forbidden,
            Answer::ContentTooLarge,
            Answer::UnsupportedMediaType,
            Answer::InternalError,
        ]);
        if operation.takes_key() || !operation.only_reads() {
            answers.push(Answer::NotFound);
        }
        if !operation.only_reads() {
            answers.push(Answer::Conflict);
        }
    }
    answers
}

fn error<'s>(service: &'s Service, answer: Answer) -> Option<&'s HttpError> {
    service.errors.iter().find(|error| error.answer == answer)
}

/// References to the errors of an operation.
pub fn of(service: &Service, endpoint: Option<&Endpoint>) -> Map<String, Value> {
    let errors = answers(endpoint).into_iter().filter_map(|answer| error(service, answer));
    let statuses: BTreeSet<i32> = errors.map(HttpError::status).collect();
    let reference = |status: i32| {
        (status.to_string(), json!({"$ref": format!("#/components/responses/{status}")}))
    };
    statuses.into_iter().map(reference).collect()
}

/// The responses that operations refer to.
pub fn responses(service: &Service) -> Value {
    let used = service.entries.iter().flat_map(|entry| answers(entry.endpoint.as_ref()));
    let used: BTreeSet<usize> = used.map(|answer| answer as usize).collect();
    let mut by_status: BTreeMap<i32, Vec<&HttpError>> = BTreeMap::new();
    for answer in Answer::ALL.into_iter().filter(|answer| used.contains(&(*answer as usize))) {
        if let Some(error) = error(service, answer) {
            by_status.entry(error.status()).or_default().push(error);
        }
    }
    let response = |(status, errors): (i32, Vec<&HttpError>)| {
        (status.to_string(), response(service, status, &errors))
    };
    by_status.into_iter().map(response).collect::<Map<_, _>>().into()
}

fn response(service: &Service, status: i32, errors: &[&HttpError]) -> Value {
    let told = errors.iter().map(|error| format!("- `{}`: {}", error.code, error.message));
    let told: Vec<String> = told.collect();
    let mut response = json!({
        "description": format!("{}\n\n{}", title(status), told.join("\n")),
        "content": {service.error_body.content_type(): {"schema": {"$ref": "#/components/schemas/Error"}}},
    });
    let has = |answers: &[Answer]| errors.iter().any(|error| answers.contains(&error.answer));
    let mut headers = Map::new();
    let is_challenge = has(&[
        Answer::MissingAuthorization,
        Answer::InvalidApiKey,
        Answer::TokenInvalid,
        Answer::TokenExpired,
        Answer::Revoked,
        Answer::Expired,
        Answer::Disabled,
        Answer::Idle,
    ]);
    if is_challenge && service.schemes.challenges().next().is_some() {
        headers.insert("WWW-Authenticate".into(), json!({"schema": {"type": "string"}}));
    }
    if has(&[Answer::RateLimited, Answer::TooManyFailures]) {
        let description = "The seconds to wait";
        headers.insert(
            "Retry-After".into(),
            json!({"description": description, "schema": {"type": "integer"}}),
        );
    }
    if !headers.is_empty() {
        response["headers"] = headers.into();
    }
    response
}

/// The form of an error's body.
pub fn schema(body: &ErrorBody) -> Value {
    let text = || json!({"type": "string"});
    match body {
        ErrorBody::Plain => json!({
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": text(), "message": text()},
        }),
        ErrorBody::Problem => json!({
            "type": "object",
            "required": ["type", "title", "status", "detail", "code"],
            "properties": {
                "type": {"type": "string", "format": "uri-reference"}, "title": text(),
                "status": {"type": "integer"}, "detail": text(), "code": text(),
                "missing_scopes": text(), "request_id": {"type": "string", "format": "uuid"},
            },
        }),
        ErrorBody::Template(template) => template.schema(),
    }
}
