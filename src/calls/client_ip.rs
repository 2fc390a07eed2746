//! `client_ip`: who is behind the proxies.

use keysmith_core::policy::allowlist::Allowlist;
use keysmith_core::policy::forwarded::client_address;
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::jsonb::{Container, Json};
use pg::varlena::StoredAllowlist;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CString;
use std::net::IpAddr;

sql_functions! {
    keysmith_client_ip => client_ip;
}

fn client_ip(call: &Call) -> Result<Option<Datum>> {
    let proxies = call.array(2).map(StoredAllowlist);
    let trusted = |address| proxies.as_ref().is_some_and(|proxies| proxies.admits(address));
    let (mut x_forwarded_for, mut forwarded) = (Vec::new(), Vec::new());
    if let Some(Json::Object(headers)) = call.json(0) {
        collect(headers, b"x-forwarded-for", &mut x_forwarded_for);
        collect(headers, b"forwarded", &mut forwarded);
    }
    let address = client_address(call.address(1), trusted, &x_forwarded_for, &forwarded);
    Ok(address.and_then(inet))
}

/// The values of a header. One that is no text is an entry that can't be read.
pub fn collect<'a>(headers: Container<'a>, name: &[u8], values: &mut Vec<&'a [u8]>) {
    const UNREADABLE: &[u8] = b"?";
    let text = |value| match value {
        Json::Text(text) => Some(text),
        Json::Null => None,
        _ => Some(UNREADABLE),
    };
    for (_, value) in headers.pairs().filter(|(key, _)| key.eq_ignore_ascii_case(name)) {
        match value {
            Json::Array(list) => values.extend(list.children().filter_map(text)),
            value => values.extend(text(value)),
        }
    }
}

pub fn inet(address: IpAddr) -> Option<Datum> {
    let text = CString::new(address.to_string()).ok()?;
    // SAFETY: inet_in takes a C string, which is that of an address.
    unsafe {
        pgrx::direct_function_call_as_datum(pg_sys::inet_in, &[Some(Datum::from(text.as_ptr()))])
    }
}
