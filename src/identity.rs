//! Who acts in this transaction.

use crate::error::Result;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The key that a successful decision left in force.
pub struct Acting {
    pub key_id: [u8; 16],
    pub tenant_id: [u8; 16],
    pub request_id: Option<[u8; 16]>,
}

/// `None` without an identity; an error if its key is no longer good.
pub fn acting() -> Result<Option<Acting>> {
    let (key, tenant) = (setting(c"standin.key"), setting(c"standin.key_tenant"));
    let request_id = setting(c"standin.request");
    Ok(key.zip(tenant).map(|(key_id, tenant_id)| Acting { key_id, tenant_id, request_id }))
}

fn setting(name: &CStr) -> Option<[u8; 16]> {
    // SAFETY: gives null or a C string, which is read at once.
    let value = unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_str().ok()?
    };
    let digits: String = value.chars().filter(|c| *c != '-').collect();
    Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
}
