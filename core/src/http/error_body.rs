//! The body of errors, as a keyspace chooses it.

use super::error::{HttpError, NAMES};
use super::template::{MAX_TEMPLATE_LEN, Names, Template};
use serde_json::Value;

pub const ERROR_BODY_RULE: &str = "must be plain, problem, or a template: a JSON object";

#[derive(Debug, Default, PartialEq)]
pub enum ErrorBody {
    /// `{"code": …, "message": …}`.
    #[default]
    Plain,
    /// RFC 9457.
    Problem,
    Template(Box<Template>),
}

impl ErrorBody {
    /// Reads a word, or a template as JSON text. The error completes "the error body …".
    pub fn parse(text: &str) -> Result<ErrorBody, String> {
        match text {
            "plain" => Ok(ErrorBody::Plain),
            "problem" => Ok(ErrorBody::Problem),
            template if template.len() > MAX_TEMPLATE_LEN => {
                Err(format!("must have at most {MAX_TEMPLATE_LEN} bytes"))
            }
            template => match serde_json::from_str(template) {
                Ok(template @ Value::Object(_)) if !has_nul(&template) => {
                    let names = Names { whole: NAMES, row: None };
                    Template::parse(&template, names).map(Box::new).map(ErrorBody::Template)
                }
                _ => Err(ERROR_BODY_RULE.into()),
            },
        }
    }

    /// The body of an error, as JSON text.
    pub fn of(&self, error: &HttpError) -> String {
        match self {
            ErrorBody::Plain => error.plain().to_string(),
            ErrorBody::Problem => error.problem().to_string(),
            ErrorBody::Template(template) => template.fill(&error.values(), &[]),
        }
    }

    pub fn content_type(&self) -> &'static str {
        match self {
            ErrorBody::Problem => "application/problem+json",
            _ => "application/json",
        }
    }
}

/// Whether it has a NUL, which PostgreSQL can't store. JSON writes it as an escape.
fn has_nul(template: &Value) -> bool {
    template.to_string().contains("\\u0000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::verdict::Answer;
    use serde_json::json;

    fn body(of: &str) -> (Value, &'static str) {
        let body = ErrorBody::parse(of).unwrap();
        let error = HttpError {
            code: "slow".into(),
            message: "Wait.".into(),
            request_id: Some("id".into()),
            retry_after: Some(1_500_000),
            ..HttpError::new(Answer::RateLimited)
        };
        (serde_json::from_str(&body.of(&error)).unwrap(), body.content_type())
    }

    #[test]
    fn each_form() {
        let json_type = "application/json";
        assert_eq!(body("plain"), (json!({"code": "slow", "message": "Wait."}), json_type));
        let problem = json!({"type": "about:blank", "title": "Too Many Requests", "status": 429,
                             "detail": "Wait.", "code": "slow", "request_id": "id"});
        assert_eq!(body("problem"), (problem, "application/problem+json"));
        let template = r#"{"error": {"code": "{code:upper}", "message": "{message} {retry_after} s",
            "all": ["{status}", "{title}", "{request_id}", "{retry_after}", "{missing_scopes}"]}}"#;
        let filled = json!({"error": {"code": "SLOW", "message": "Wait. 2 s",
            "all": [429, "Too Many Requests", "id", 2, null]}});
        assert_eq!(body(template), (filled, json_type));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "Plain", "null", "[]", "\"plain\"", "{", "{\"a\": }", r#"{"a": "\u0000"}"#]
        {
            assert_eq!(ErrorBody::parse(text), Err(ERROR_BODY_RULE.into()), "{text}");
        }
        let known: Vec<&str> = NAMES.iter().map(|named| named.name).collect();
        let unknown = ErrorBody::parse(r#"{"a": "{tenant}"}"#).unwrap_err();
        assert!(unknown.ends_with(&format!("only {}", known.join(", "))), "{unknown}");
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_TEMPLATE_LEN));
        assert!(ErrorBody::parse(&long).is_err());
    }
}
