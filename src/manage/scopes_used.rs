//! `scopes_used`: the scopes of a key that a request needed, as far as its route tells.

use crate::catalog::Catalog;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::parameter;
use keysmith_core::policy::route::Path;
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::text;
use pg::varlena;
use pgrx::pg_sys::Datum;
use std::borrow::Cow;

sql_functions! {
    keysmith_scopes_used => scopes_used;
}

/// Those of `scopes` that cover something the route names, in whichever variant.
/// Null where the request fits no route, and so tells nothing.
fn scopes_used(call: &Call) -> Result<Option<Datum>> {
    const MOST: usize = 64 * 1024;
    let arguments = (call.bytes(0, MOST), call.bytes(1, MOST), call.bytes(2, MOST), call.array(3));
    let (
        Some(Bytes::Read(keyspace)),
        Some(Bytes::Read(method)),
        Some(Bytes::Read(path)),
        Some(scopes),
    ) = arguments
    else {
        return Ok(None);
    };
    let policy = Catalog::open()?.policy(keyspace)?;
    let Some(path) = Path::parse(path) else { return Ok(None) };
    let mut routes = policy.variants(method, &path).peekable();
    if routes.peek().is_none() {
        return Ok(None);
    }
    let needs: Vec<Cow<Expression>> = routes.map(|route| route.needs(&path)).collect();
    let named: Vec<&str> = needs.iter().flat_map(|needed| needed.scopes()).collect();
    // One with parameters is in the catalogue, and stands for what a wildcard gives.
    let is_used = |scope: &[u8]| {
        let own = [scope];
        let held = policy.held(&own, [None, None]);
        let covers = |named: &[u8]| held.covers(named) || parameter::has_instance(scope, named);
        named.iter().any(|named| covers(named.as_bytes()))
    };
    let used = scopes.iter().flatten().filter(|scope| is_used(scope));
    Ok(Some(varlena::text_array(used.map(|scope| text::datum(&text::lossy(scope))).collect())))
}
