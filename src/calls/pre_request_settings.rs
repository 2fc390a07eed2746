//! Settings of `pre_request`. Ordinary users must not SET them, since PostgREST runs its clients'
//! requests as ordinary users.

use keysmith_core::policy::proxies::Proxies;
use pg::settings::{About, Boolean, Check, Context, SettingProblem, Text};
use pgrx::pg_sys;
use std::ffi::CStr;

/// The default is the keyspace that every installation has.
static KEYSPACE: Text = Text::new(
    About {
        name: c"keysmith.request_keyspace",
        description: c"The keyspace of the requests that pre_request decides about.",
        explanation: c"",
        context: Context::Superuser,
        flags: 0,
    },
    c"default",
);

/// By default no proxy is trusted, and the client's address is unknown.
static TRUSTED_PROXIES: Text<Networks> = Text::new(
    About {
        name: c"keysmith.trusted_proxies",
        description: c"Networks of the proxies through which every request to pre_request comes.",
        explanation: c"Their X-Forwarded-For and Forwarded are trusted. If empty, the address of \
                       the client is unknown.",
        context: Context::Superuser,
        flags: pg_sys::GUC_LIST_INPUT,
    },
    c"",
);

/// Off by default: most tools understand the plain form.
static HEADERS: Boolean = Boolean::new(
    About {
        name: c"keysmith.request_error_headers",
        description: c"Whether responses to the requests of pre_request have headers.",
        explanation: c"If on, refusals have the SQLSTATE PGRST; otherwise PT and the status, such \
                       as PT401.",
        context: Context::Superuser,
        flags: 0,
    },
    false,
);

struct Networks;

impl Check for Networks {
    fn problem(value: &CStr) -> Option<SettingProblem> {
        let is_good = value.to_str().is_ok_and(|list| Proxies::parse(list).is_some());
        (!is_good).then_some(SettingProblem {
            message: None,
            detail: Some(c"It must be a list of networks, as in \"10.0.0.0/8, 192.0.2.1\"."),
            hint: None,
        })
    }
}

/// Passes the name of the keyspace to `body`.
pub fn with_keyspace<T>(body: impl FnOnce(&CStr) -> T) -> T {
    KEYSPACE.with(body)
}

/// The proxies that are trusted to name the client.
pub fn trusted_proxies() -> Proxies {
    TRUSTED_PROXIES.with(|list| list.to_str().ok().and_then(Proxies::parse)).unwrap_or_default()
}

pub fn sends_headers() -> bool {
    HEADERS.get()
}

pub fn define() {
    KEYSPACE.define();
    TRUSTED_PROXIES.define();
    HEADERS.define();
}
