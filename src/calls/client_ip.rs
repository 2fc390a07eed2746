//! `client_ip`: the address of the client behind the proxies.

use keysmith_core::policy::allowlist::Allowlist;
use keysmith_core::policy::forwarded::client_address;
use pg::call::{Call, sql_functions};
use pg::datum;
use pg::error::Result;
use pg::jsonb::Json;
use pg::varlena::StoredAllowlist;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_client_ip => client_ip;
}

fn client_ip(call: &Call) -> Result<Option<Datum>> {
    let proxies = call.array(2).map(StoredAllowlist);
    let trusted = |address| proxies.as_ref().is_some_and(|proxies| proxies.admits(address));
    let [x_forwarded_for, forwarded] = of_proxies(call.json(0));
    let address = client_address(call.address(1), trusted, &x_forwarded_for, &forwarded);
    Ok(address.map(datum::inet))
}

/// The values of `X-Forwarded-For` and of `Forwarded`.
pub fn of_proxies(headers: Option<Json<'_>>) -> [Vec<&[u8]>; 2] {
    [values_of(headers, b"x-forwarded-for"), values_of(headers, b"forwarded")]
}

/// The values of a header. A value that is not a text becomes an entry that can't be parsed.
pub fn values_of<'a>(headers: Option<Json<'a>>, name: &[u8]) -> Vec<&'a [u8]> {
    const UNREADABLE: &[u8] = b"?";
    let text = |value| match value {
        Json::Text(text) => Some(text),
        Json::Null => None,
        _ => Some(UNREADABLE),
    };
    let mut values = Vec::new();
    let Some(Json::Object(headers)) = headers else { return values };
    for (_, value) in headers.pairs().filter(|(key, _)| key.eq_ignore_ascii_case(name)) {
        match value {
            Json::Array(list) => values.extend(list.children().filter_map(text)),
            value => values.extend(text(value)),
        }
    }
    values
}
