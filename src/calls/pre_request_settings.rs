//! What `pre_request` goes by. None of it may be SET by an ordinary user: the clients of
//! PostgREST are one, as far as PostgreSQL knows.

use keysmith_core::policy::proxies::Proxies;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

/// The keyspace that is there from the start.
static KEYSPACE: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// By default nobody is believed about the client's address.
static TRUSTED_PROXIES: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// Off by default: the plain form is what most tools make sense of.
static HEADERS: AtomicBool = AtomicBool::new(false);

pub fn keyspace() -> Option<&'static CStr> {
    value(&KEYSPACE)
}

/// Those that are trusted to tell who called them.
pub fn trusted_proxies() -> Proxies {
    let list = value(&TRUSTED_PROXIES).and_then(|list| list.to_str().ok());
    list.and_then(Proxies::parse).unwrap_or_default()
}

pub fn sends_headers() -> bool {
    HEADERS.load(Relaxed)
}

/// The value as it is now; it is read before anything can change it.
fn value(place: &AtomicPtr<c_char>) -> Option<&'static CStr> {
    let value = place.load(Relaxed);
    // SAFETY: PostgreSQL keeps a C string there.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

/// # Safety
/// PostgreSQL calls it with the place of a value.
unsafe extern "C-unwind" fn is_list_of_networks(
    value: *mut *mut c_char,
    _: *mut *mut c_void,
    _: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the place holds a C string, if anything. The detail is a copy of PostgreSQL's.
    unsafe {
        let list = (*value).as_ref().map(|first| CStr::from_ptr(first).to_str());
        let is_good = list.is_none_or(|list| list.is_ok_and(|list| Proxies::parse(list).is_some()));
        if !is_good {
            let detail = c"It must be a list of networks, as in \"10.0.0.0/8, 192.0.2.1\".";
            pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr());
        }
        is_good
    }
}

/// # Safety
/// Only from `_PG_init`.
pub unsafe fn define() {
    let by_superusers = pg_sys::GucContext::PGC_SUSET;
    // SAFETY: all strings are static, and so are the places of the values.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            c"keysmith.request_keyspace".as_ptr(),
            c"The keyspace of the requests that pre_request decides about.".as_ptr(),
            c"".as_ptr(),
            KEYSPACE.as_ptr(),
            c"default".as_ptr(),
            by_superusers,
            0,
            None,
            None,
            None,
        );
        pg_sys::DefineCustomStringVariable(
            c"keysmith.trusted_proxies".as_ptr(),
            c"Networks of the proxies through which every request to pre_request comes.".as_ptr(),
            c"Their X-Forwarded-For and Forwarded are believed. Empty means that the client's \
              address is not known."
                .as_ptr(),
            TRUSTED_PROXIES.as_ptr(),
            c"".as_ptr(),
            by_superusers,
            pg_sys::GUC_LIST_INPUT as i32,
            Some(is_list_of_networks),
            None,
            None,
        );
        pg_sys::DefineCustomBoolVariable(
            c"keysmith.request_error_headers".as_ptr(),
            c"Whether the refusals of pre_request carry response headers.".as_ptr(),
            c"If on, they are of the SQLSTATE PGRST, else of PT and the status.".as_ptr(),
            HEADERS.as_ptr(),
            false,
            by_superusers,
            0,
            None,
            None,
            None,
        );
    }
}
