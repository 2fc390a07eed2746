//! Why an endpoint did not do what was asked.

use super::worded;
use crate::catalog::policy::Policy;
use keysmith_core::http::error::HttpError;
use keysmith_core::http::operation::Operation;
use keysmith_core::http::request::Mapping;
use keysmith_core::policy::verdict::Answer;
use pg::{attempt, notice, role, text};
use serde::Deserialize;

pub struct Failure {
    answer: Answer,
    status: Option<i32>,
    code: Option<String>,
    /// The message; `None` for the keyspace's own.
    message: Option<String>,
}

/// The detail of a refusal in a keyspace's wording.
#[derive(Deserialize)]
struct Detail {
    status: i32,
    code: String,
}

impl Failure {
    pub fn of(answer: Answer) -> Failure {
        Failure { answer, status: None, code: None, message: None }
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure { message: Some(message.into()), ..Failure::of(Answer::InvalidRequest) }
    }

    /// The caller's role lacks the access that an operation takes.
    pub fn of_access(operation: Operation) -> Failure {
        let (role, name) = (text::name_of_role(role::current()), operation.name());
        notice::log(format!("serve answers an error: role {role:?} has no access for {name}"));
        Failure::of(Answer::InternalError)
    }

    /// The server has no secrets that sign tokens.
    pub fn of_signing() -> Failure {
        notice::log("serve answers an error: keysmith.signing_key_file is not set");
        Failure::of(Answer::InternalError)
    }

    /// The failure that an error of an operation stands for. Errors of the installation are
    /// reported, and the client learns nothing of them.
    pub fn caused_by(error: attempt::Failure) -> Failure {
        /// PostgreSQL's messages have the whole value that can't be read.
        const MOST: usize = 500;
        let attempt::Failure { sqlstate, message, detail, is_passing } = error;
        let detail: Option<Detail> = detail.and_then(|json| serde_json::from_str(&json).ok());
        let answer = match &sqlstate {
            b"KS400" => Answer::InvalidRequest,
            b"KS401" => Answer::InvalidApiKey,
            b"KS403" => Answer::Forbidden,
            b"KS404" => Answer::NotFound,
            b"KS409" => Answer::Conflict,
            [b'2', b'2', ..] => Answer::InvalidRequest,
            b"23505" => Answer::Conflict,
            b"KS503" | b"KS504" => Answer::Unavailable,
            _ if is_passing => Answer::Unavailable,
            _ => Answer::InternalError,
        };
        match answer {
            Answer::InvalidApiKey => Failure::of(answer),
            // PostgreSQL's message names an index.
            Answer::Conflict if !sqlstate.starts_with(b"KS") => Failure::of(answer),
            Answer::Unavailable | Answer::InternalError => {
                let code = String::from_utf8_lossy(&sqlstate);
                notice::log(format!("serve answers an error {code}: {message}"));
                Failure::of(answer)
            }
            _ => Failure {
                answer,
                status: detail.as_ref().map(|detail| detail.status),
                code: detail.map(|detail| detail.code),
                message: Some(message.chars().take(MOST).collect()),
            },
        }
    }

    /// The message with the name of the field in place of the argument's.
    pub fn with_fields(mut self, mapping: &Mapping) -> Failure {
        if self.answer == Answer::InvalidRequest
            && let Some(message) = &self.message
        {
            let message = message.strip_prefix("changes.").unwrap_or(message);
            let end = message.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let (argument, rule) = message.split_at(end.unwrap_or(message.len()));
            let field = mapping.field_of(argument).unwrap_or(argument);
            self.message = Some(format!("{field}{rule}"));
        }
        self
    }

    /// The error in the keyspace's wording. A message that the keyspace has for it replaces one that
    /// says what was wrong, unless that is a refusal in the keyspace's words.
    pub fn told(self, policy: &Policy) -> HttpError {
        let error = worded(policy, self.answer);
        let has_own = policy.wording(self.answer).is_some_and(|own| own.message.is_some());
        let is_refusal = self.code.is_some();
        HttpError {
            status: self.status.unwrap_or(error.status),
            code: self.code.unwrap_or(error.code),
            message: self.message.filter(|_| is_refusal || !has_own).unwrap_or(error.message),
            ..error
        }
    }
}
