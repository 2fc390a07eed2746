//! `openapi`: the description of a keyspace's API. All of it comes from the policy, which knows
//! neither tenants nor keys.

use super::{endpoint, worded};
use crate::catalog::policy::{self, Policy, Route};
use crate::catalog::{Catalog, access};
use crate::manage::keyspace::check_known;
use keysmith_core::http::openapi::{Endpoint, Entry, Needs, Service, document};
use pg::call::{Call, sql_functions};
use pg::datum;
use pg::error::Result;
use pg::text::lossy;
use pgrx::pg_sys::Datum;
use std::collections::BTreeMap;

sql_functions! {
    keysmith_openapi => openapi;
}

fn openapi(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let catalog = Catalog::open()?;
    access::must_reach(&catalog, keyspace.as_bytes(), access::DECIDING)?;
    check_known(&keyspace)?;
    let policy = catalog.policy(keyspace.as_bytes())?;
    let service = Service {
        title: &keyspace,
        schemes: &policy.schemes,
        error_body: &policy.error_body,
        errors: policy.given_answers().map(|answer| worded(&policy, answer)).collect(),
        entries: entries(&policy),
    };
    Ok(Some(datum::jsonb(&document(&service).to_string())))
}

/// Routes and endpoints by pattern and method.
fn entries(policy: &Policy) -> Vec<Entry<'_>> {
    let mut entries: BTreeMap<(Vec<u8>, Vec<u8>), Entry> = BTreeMap::new();
    for (method, variant, route) in policy.routes().all() {
        let (method, pattern) = (method.to_vec(), route.pattern().to_vec());
        let entry =
            entries.entry((named_alike(&pattern), method)).or_insert_with_key(|(_, method)| {
                Entry {
                    method: lossy(method),
                    pattern: lossy(&pattern),
                    endpoint: None,
                    needs: Vec::new(),
                }
            });
        entry.needs.push(needs(route, variant));
    }
    for (method, _, of) in policy.endpoints().all() {
        let place = |method: &[u8]| (named_alike(&of.pattern), method.to_vec());
        let own = entries.remove(&place(method)).map(|entry| entry.needs);
        // A route for all methods holds for the endpoints of its pattern.
        let needs = own.or_else(|| {
            let any = entries.get(&place(b"*"))?;
            Some(any.needs.iter().map(Needs::clone).collect())
        });
        let (Some(endpoint), Some(needs)) = (described(of), needs) else { continue };
        let (method_shown, pattern) = (lossy(method), lossy(&of.pattern));
        let entry = Entry { method: method_shown, pattern, endpoint: Some(endpoint), needs };
        entries.insert(place(method), entry);
    }
    entries.into_values().collect()
}

/// A pattern without the names of its parameters.
fn named_alike(pattern: &[u8]) -> Vec<u8> {
    let segments = pattern.split(|b| *b == b'/').map(|segment| match segment {
        [b'{', ..] => b"{}",
        literal => literal,
    });
    segments.collect::<Vec<_>>().join(&b'/')
}

fn described(of: &policy::Endpoint) -> Option<Endpoint> {
    Some(Endpoint {
        operation: of.operation,
        mapping: endpoint::mapping(of)?,
        template: endpoint::template(of)?,
        status: endpoint::status(of),
    })
}

fn needs<'p>(route: &'p Route, variant: &[u8]) -> Needs<'p> {
    let place = |name: &str| Some(format!("{{{}}}", route.place(name)?).into());
    Needs {
        variant: lossy(variant),
        scopes: route.scopes.filled(&place),
        kind: route.kind.as_deref().map(lossy),
        weight: route.weight,
        is_public: route.is_public,
        limits: route.limits.as_deref(),
    }
}
