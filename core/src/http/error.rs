//! An error as HTTP tells it.

use super::headers::seconds;
use super::operation::{Named, named};
use super::status;
use crate::policy::verdict::Answer;
use serde_json::{Map, Value, json};

/// A refusal, or the error of an operation, in the keyspace's wording.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpError {
    pub answer: Answer,
    /// A number that is no status stands for the answer's own.
    pub status: i32,
    pub code: String,
    pub message: String,
    pub request_id: Option<String>,
    /// In microseconds.
    pub retry_after: Option<i64>,
    /// The expression of scopes that is not met.
    pub missing_scopes: Option<String>,
}

/// The names that a template of a body may use.
pub const NAMES: &[Named] = named! {
    code: Text, message: Text, status: Integer, title: Text, request_id: Option<Text>,
    retry_after: Option<Integer>, missing_scopes: Option<Text>,
};

impl HttpError {
    /// An error in our own words.
    pub fn new(answer: Answer) -> HttpError {
        HttpError {
            answer,
            status: answer.status(),
            code: answer.code().into(),
            message: answer.message().into(),
            request_id: None,
            retry_after: None,
            missing_scopes: None,
        }
    }

    /// The status, which is one of HTTP.
    pub fn status(&self) -> i32 {
        if status::is_status(self.status) { self.status } else { self.answer.status() }
    }

    /// The phrase of the status.
    pub fn title(&self) -> &'static str {
        status::title(self.status())
    }

    /// The least time to wait, in whole seconds.
    pub fn retry_after(&self) -> Option<i64> {
        self.retry_after.map(|wait| seconds(wait).max(1))
    }

    /// `{"code": …, "message": …}`.
    pub(super) fn plain(&self) -> Value {
        json!({"code": self.code, "message": self.message})
    }

    /// The object of RFC 9457. A problem of the type `about:blank` has the phrase of its status as its
    /// title.
    pub fn problem(&self) -> Value {
        let mut problem = Map::from_iter([
            ("type".into(), "about:blank".into()),
            ("title".into(), self.title().into()),
            ("status".into(), self.status().into()),
            ("detail".into(), self.message.clone().into()),
            ("code".into(), self.code.clone().into()),
        ]);
        let known = [("missing_scopes", &self.missing_scopes), ("request_id", &self.request_id)];
        for (name, value) in known {
            problem.extend(value.clone().map(|value| (name.into(), value.into())));
        }
        Value::Object(problem)
    }

    /// The values of `NAMES`.
    pub(super) fn values(&self) -> Map<String, Value> {
        let value = |named: &Named| match named.name {
            "code" => self.code.clone().into(),
            "message" => self.message.clone().into(),
            "status" => self.status().into(),
            "title" => self.title().into(),
            "request_id" => self.request_id.clone().into(),
            "retry_after" => self.retry_after().into(),
            "missing_scopes" => self.missing_scopes.clone().into(),
            _ => Value::Null,
        };
        NAMES.iter().map(|named| (named.name.into(), value(named))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_phrase_of_its_status() {
        let error = HttpError::new(Answer::InvalidApiKey);
        assert_eq!(
            error.problem(),
            json!({"type": "about:blank", "title": "Unauthorized", "status": 401,
                   "detail": "The API key is not valid.", "code": "invalid_api_key"})
        );
        let known = HttpError {
            missing_scopes: Some("a & b".into()),
            request_id: Some("id".into()),
            ..HttpError::new(Answer::InsufficientScope)
        };
        let problem = known.problem();
        assert_eq!(
            (&problem["missing_scopes"], &problem["request_id"]),
            (&json!("a & b"), &json!("id"))
        );
    }

    #[test]
    fn a_number_that_is_no_status_is_not_told() {
        for status in [0, -1, 99, 600, i32::MIN, i32::MAX] {
            let error = HttpError { status, ..HttpError::new(Answer::RateLimited) };
            assert_eq!(error.problem()["status"], json!(429));
            assert_eq!(error.problem()["title"], json!("Too Many Requests"));
        }
    }

    #[test]
    fn each_name_has_a_value() {
        let error = HttpError {
            request_id: Some("id".into()),
            retry_after: Some(1_000_001),
            missing_scopes: Some("a".into()),
            ..HttpError::new(Answer::RateLimited)
        };
        let values = error.values();
        assert!(NAMES.iter().all(|named| !values[named.name].is_null()), "{values:?}");
        assert_eq!(values["retry_after"], json!(2));
    }
}
