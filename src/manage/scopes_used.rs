//! `scopes_used`: the scopes of a key that a request needed, as far as its route tells.

use crate::catalog::Catalog;
use keysmith_core::policy::route::Path;
use pg::call::{Bytes, Call, sql_functions};
use pg::error::Result;
use pg::text;
use pg::varlena;
use pgrx::pg_sys::Datum;

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
    let named: Vec<&str> = routes.flat_map(|route| route.scopes.scopes()).collect();
    let is_used = |scope: &[u8]| {
        let own = [scope];
        let held = policy.held(&own, [None, None]);
        named.iter().any(|named| held.covers(named.as_bytes()))
    };
    let used = scopes.iter().flatten().filter(|scope| is_used(scope));
    Ok(Some(varlena::text_array(used.map(|scope| text::datum(&text::lossy(scope))).collect())))
}
