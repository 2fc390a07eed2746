//! `serve`: decides about a request, and answers it if it is an endpoint of the key service.

mod answer;
mod endpoint;
mod failure;
mod openapi;
mod operations;
mod outcome;
mod pre_request;
mod response;
mod statement;

use crate::calls::arguments;
use crate::calls::authenticate::{self, HttpRequest, text};
use crate::calls::client_ip;
use crate::calls::decision::{self, name};
use crate::calls::pre_request_settings::trusted_proxies;
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::decide::lookup::Reader;
use crate::identity::{self, Identity};
use crate::usage::session::log_request;
use crate::verdict::Verdict;
use answer::Answer;
use endpoint::{Place, Request};
use keysmith_core::http::error::HttpError;
use keysmith_core::http::origin::{self, Origin};
use keysmith_core::policy::forwarded::client_address;
use keysmith_core::policy::verdict::{self, Reason};
use outcome::Outcome;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pgrx::pg_sys::Datum;
use std::net::IpAddr;
use std::rc::Rc;

sql_functions! {
    keysmith_serve => serve;
}

/// The positions of the arguments.
mod position {
    pub const HEADERS: usize = 0;
    pub const METHOD: usize = 1;
    pub const PATH: usize = 2;
    pub const BODY: usize = 3;
    pub const IP: usize = 4;
    pub const KEYSPACE: usize = 5;
    pub const VARIANT: usize = 6;
    pub const SPEND: usize = 7;
    pub const PEER: usize = 8;
    pub const WEIGHTS: usize = 9;
    pub const SUBJECT: usize = 10;
}

fn serve(call: &Call) -> Result<Option<Datum>> {
    let request = HttpRequest {
        headers: call.json(position::HEADERS),
        method: text(call, position::METHOD),
        path: text(call, position::PATH),
        address: address(call),
        keyspace: name(call, position::KEYSPACE).unwrap_or_default(),
        variant: text(call, position::VARIANT),
        spend: arguments::spend(call, position::SPEND)?,
        weights: arguments::weights(call, None, position::WEIGHTS)?,
        subject: arguments::subject(call, position::SUBJECT)?,
    };
    let catalog = decision::catalog(request.keyspace)?;
    let answer = answer(call, &catalog, &request)?;
    Ok(Some(answer.into_datum(call.memory(), &catalog)))
}

/// The address of the client: the one that is given, or the one that proxies tell.
fn address(call: &Call) -> Option<IpAddr> {
    let given = call.address(position::IP);
    if given.is_some() {
        return given;
    }
    let peer = call.address(position::PEER)?;
    let proxies = trusted_proxies();
    let [x_forwarded_for, forwarded] = client_ip::of_proxies(call.json(position::HEADERS));
    client_address(Some(peer), |of| proxies.trusts(of), &x_forwarded_for, &forwarded)
}

fn answer(call: &Call, catalog: &Catalog, request: &HttpRequest) -> Result<Answer> {
    let memory = call.memory();
    let reader = Reader::new(catalog);
    let (policy, sought) = authenticate::seek(memory, &reader, request)?;
    let path = authenticate::path(request.path);
    let place = Place::of(&policy, request.method, path.as_ref().ok());
    if let Place::Options(methods) = place {
        return Ok(Answer::options(methods));
    }
    let mut required = authenticate::required(request.method, &path, request.variant, &policy);
    required.needs_key = matches!(&place, Place::Endpoint(endpoint) if endpoint.needs_key());
    let person = match sought {
        Err(Reason::Missing) => person(request.keyspace),
        _ => None,
    };
    let verdict: Verdict<Outcome> = match &person {
        Some(person) => {
            let verdict = Outcome::of_person(person, &policy, &required.needs);
            if is_of_another_site(request) { refused(&policy, verdict) } else { verdict }
        }
        None => authenticate::decide_by(memory, &reader, &policy, sought, request, &required)?,
    };
    let (id, decided) = (verdict.request_id, verdict.status);
    let mut answer = match place {
        _ if verdict.record.is_refusal() => {
            let error = verdict.record.error.clone();
            Answer::error(&policy, verdict, error)
        }
        Place::Elsewhere | Place::Options(_) => Answer::not_handled(&policy, verdict),
        Place::OtherMethods(methods) => {
            let error = worded(&policy, verdict::Answer::MethodNotAllowed);
            Answer::error(&policy, verdict, error).with_allow(methods)
        }
        Place::Endpoint(endpoint) => {
            let body = call.jsonb(position::BODY);
            let HttpRequest { path, headers, keyspace, .. } = *request;
            let request = Request { path, headers, body, keyspace };
            match endpoint.done(&request) {
                Ok(done) => Answer::done(&policy, verdict, done),
                Err(failure) => Answer::error(&policy, verdict, failure.told(&policy)),
            }
        }
    };
    let status = answer.status;
    match person {
        // The record of act_as says nothing about the request.
        Some(_) => {
            let path = request.path.filter(|_| policy.usage_details);
            log_request::answered(&id, status, request.method, path);
        }
        None if status != decided => log_request::answered(&id, status, None, None),
        None => {}
    }
    if request.method.is_some_and(|method| method.eq_ignore_ascii_case(b"HEAD")) {
        answer.body = None;
    }
    Ok(answer)
}

/// The person for whom the transaction acts, if the request is to that keyspace.
fn person(keyspace: &[u8]) -> Option<Rc<Identity>> {
    // If the person may no longer act, the request is refused as one without a key.
    let identity = identity::current().ok().flatten()?;
    (identity.key.is_none() && *identity.keyspace == *keyspace).then_some(identity)
}

/// Whether a page of another site made a browser send the request, with its cookies. Links may read.
fn is_of_another_site(request: &HttpRequest) -> bool {
    let values = |name: &[u8]| client_ip::values_of(request.headers, name);
    let is_handshake = || origin::HANDSHAKE.iter().any(|name| !values(name).is_empty());
    (!request.method.is_some_and(origin::only_reads) || is_handshake())
        && Origin {
            site: values(b"sec-fetch-site"),
            origin: values(b"origin"),
            host: values(b"host"),
        }
        .is_another_site()
}

/// The verdict on a request of another site.
fn refused<'m>(policy: &Policy, mut verdict: Verdict<'m, Outcome>) -> Verdict<'m, Outcome> {
    let error = worded(policy, verdict::Answer::CrossSiteRequest);
    verdict.status = error.status;
    let request_id = verdict.record.error.request_id.take();
    verdict.record.error = HttpError { request_id, ..error };
    verdict
}

/// An error in the keyspace's wording.
fn worded(policy: &Policy, answer: verdict::Answer) -> HttpError {
    let wording = policy.wording(answer);
    let text = |text: Option<&[u8]>| text.and_then(pg::text::from_server);
    let error = HttpError::new(answer);
    HttpError {
        status: wording.and_then(|wording| wording.status).unwrap_or(error.status),
        code: text(wording.and_then(|wording| wording.code.as_deref())).unwrap_or(error.code),
        message: text(wording.and_then(|wording| wording.message.as_deref()))
            .unwrap_or(error.message),
        ..error
    }
}
