//! The answer to a request, and its row.

use super::endpoint::Done;
use super::outcome::Outcome;
use super::response::object;
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::verdict::Verdict;
use keysmith_core::http::error::HttpError;
use keysmith_core::http::headers::Header;
use pg::jsonb::StoredJsonb;
use pg::output;
use pg::record::RecordWriter;
use pg::scratch::Memory;
use pgrx::pg_sys::Datum;

const JSON: &str = "application/json";

type Decided<'m> = Verdict<'m, Outcome>;

/// An answer to a request.
pub struct Answer {
    is_handled: bool,
    pub status: i32,
    headers: Vec<Header>,
    /// As JSON text.
    pub body: Option<String>,
    request_id: Option<[u8; 16]>,
    is_good: bool,
    tenant: Option<Vec<u8>>,
    key_id: Option<[u8; 16]>,
}

impl Answer {
    fn new(verdict: Decided, status: i32, headers: Vec<Header>) -> Answer {
        Answer {
            is_handled: true,
            status,
            headers,
            body: None,
            request_id: Some(verdict.request_id),
            is_good: !verdict.record.is_refusal(),
            tenant: verdict.record.tenant,
            key_id: verdict.record.key_id,
        }
    }

    /// The application answers, and adds the headers.
    pub fn not_handled(policy: &Policy, verdict: Decided) -> Answer {
        let headers = verdict.record.headers(policy, false);
        Answer { is_handled: false, ..Answer::new(verdict, 200, headers) }
    }

    pub fn done(policy: &Policy, verdict: Decided, done: Done) -> Answer {
        let mut headers = verdict.record.headers(policy, done.shows_key);
        headers.extend(done.body.as_ref().map(|_| ("Content-Type", JSON.into())));
        Answer { body: done.body, ..Answer::new(verdict, done.status, headers) }
    }

    pub fn error(policy: &Policy, verdict: Decided, error: HttpError) -> Answer {
        let error = HttpError { request_id: Some(output::uuid(&verdict.request_id)), ..error };
        let mut headers = verdict.record.headers_with(policy, &error, false);
        headers.push(("Content-Type", policy.error_body.content_type().into()));
        let body = Some(policy.error_body.of(&error));
        Answer { body, ..Answer::new(verdict, error.status(), headers) }
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
            // Headers are ASCII.
            headers => StoredJsonb::parse(memory, &object(headers).to_string())
                .unwrap_or_else(StoredJsonb::empty_object),
        };
        let body = self.body.and_then(|body| StoredJsonb::parse(memory, &body));
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
