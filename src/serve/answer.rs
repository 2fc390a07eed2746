//! The answer to a request, and its row.

use super::endpoint::Done;
use super::heard::Heard;
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use keysmith_core::http::error::HttpError;
use keysmith_core::http::headers::{self, Facts};
use keysmith_core::policy::verdict;
use pg::jsonb::StoredJsonb;
use pg::record::RecordWriter;
use pg::scratch::Memory;
use pg::output;
use pgrx::pg_sys::Datum;
use serde_json::{Map, Value};

const JSON: &str = "application/json";

/// An answer to a request.
pub struct Answer {
    is_handled: bool,
    pub status: i32,
    headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
    request_id: Option<[u8; 16]>,
    is_good: bool,
    tenant: Option<Box<[u8]>>,
    key_id: Option<[u8; 16]>,
}

impl Answer {
    fn new(heard: &Heard, status: i32, headers: Vec<(&'static str, String)>) -> Answer {
        Answer {
            is_handled: true,
            status,
            headers,
            body: None,
            request_id: Some(heard.request_id),
            is_good: heard.is_good,
            tenant: heard.tenant.clone(),
            key_id: heard.key_id,
        }
    }

    /// The application answers, and adds the headers.
    pub fn not_handled(policy: &Policy, heard: &Heard) -> Answer {
        let headers = headers(policy, heard, None, false);
        Answer { is_handled: false, ..Answer::new(heard, 200, headers) }
    }

    pub fn done(policy: &Policy, heard: &Heard, done: Done) -> Answer {
        let mut headers = headers(policy, heard, None, done.shows_key);
        headers.extend(done.body.as_ref().map(|_| ("Content-Type", JSON.into())));
        Answer { body: done.body, ..Answer::new(heard, done.status, headers) }
    }

    pub fn error(policy: &Policy, heard: &Heard, error: HttpError) -> Answer {
        let error = HttpError { request_id: Some(output::uuid(&heard.request_id)), ..error };
        let mut headers = headers(policy, heard, Some(&error), false);
        headers.push(("Content-Type", policy.error_body.content_type().into()));
        let body = Some(policy.error_body.of(&error));
        Answer { body, ..Answer::new(heard, error.status(), headers) }
    }

    pub fn with_allow(mut self, methods: String) -> Answer {
        self.headers.push(("Allow", methods));
        self
    }

    /// The answer to a question about the methods of a path. It needs no key, and says nothing that
    /// a 405 would not.
    pub fn options(methods: String) -> Answer {
        Answer {
            is_handled: true,
            status: 204,
            headers: vec![("Allow", methods)],
            body: None,
            request_id: None,
            is_good: true,
            tenant: None,
            key_id: None,
        }
    }

    pub fn into_datum(self, memory: Memory, catalog: &Catalog) -> Datum {
        let headers = match &self.headers[..] {
            [] => StoredJsonb::empty_object(),
            headers => {
                let pair = |(name, value): &(&str, String)| (String::from(*name), value.as_str().into());
                let object = Value::Object(headers.iter().map(pair).collect::<Map<_, _>>());
                // Headers are ASCII.
                StoredJsonb::parse(memory, &object.to_string())
                    .unwrap_or_else(StoredJsonb::empty_object)
            }
        };
        let body = self.body.and_then(|body| StoredJsonb::parse(memory, &body.to_string()));
        let tenant = self.tenant.as_deref();
        let room = headers.image().len()
            + body.map_or(0, |body| body.image().len())
            + tenant.map_or(0, <[u8]>::len);
        let mut row = catalog.tables.response.row(memory, room);
        row.boolean(self.is_handled);
        row.integer(Some(self.status));
        row.jsonb(Some(headers));
        row.jsonb(body);
        row.uuid(self.request_id.as_ref());
        row.boolean(self.is_good);
        row.text(tenant);
        row.uuid(self.key_id.as_ref());
        row.finish().into_datum()
    }
}

fn headers(
    policy: &Policy,
    heard: &Heard,
    error: Option<&HttpError>,
    shows_key: bool,
) -> Vec<(&'static str, String)> {
    let facts = Facts {
        answer: error.map_or(verdict::Answer::Ok, |error| error.answer),
        missing_scopes: error.and_then(|error| error.missing_scopes.as_deref()),
        retry_after: error.and_then(|error| error.retry_after),
        limit: heard.limit.as_ref(),
        shows_key,
    };
    headers::headers(&facts, &policy.schemes)
}
