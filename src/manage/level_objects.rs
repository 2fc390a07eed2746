//! The objects that come with each access level, besides the functions that check what they need.

use super::level::Level;

/// The other objects that come with a level: functions for which EXECUTE is the whole privilege, and
/// views. Administrators have EXECUTE on all functions, and on the triggers that are named here.
pub struct Objects {
    pub functions: &'static [&'static str],
    pub views: &'static [&'static [&'static str]],
}

pub const fn objects(level: Level) -> Objects {
    match level {
        Level::Verifier => Objects {
            functions: &[
                "verify",
                "verify_json",
                "verify_digest",
                "verify_many",
                "derive_token",
                "jwks",
                "authenticate",
                "authenticate_json",
                "serve",
                "pre_request",
                "client_ip",
                "response_headers",
                "problem",
                "openapi",
                "sign_out",
                "log_request",
                "settle",
                "event_channel",
                "help",
                // These act with the caller's rights on the caller's tables.
                "isolate",
                "release",
                "track",
                "untrack",
                "log_usage",
                "protect",
                "unprotect",
                "protect_existing",
                "hash_columns",
                "seal_rows",
                "unseal_rows",
                "verify_rows",
                "seal_row",
                "ledger",
                "unledger",
                "ledger_head",
                "verify_ledger",
                "ledger_changes",
                // Values beside their digests: whoever may ask can try values.
                "digest",
                "digests",
                "matches",
                "is_digest",
            ],
            views: &[PROGRESS],
        },
        Level::Host => {
            Objects { functions: &["sign_out", "log_request", "help"], views: &[OF_TENANTS] }
        }
        Level::Issuer => Objects {
            functions: &["report_leak", "wait_for_replay", "sign_out", "help"],
            views: &[OF_TENANTS],
        },
        Level::Auditor => Objects {
            functions: &[
                "help",
                "explain_verify",
                "limit_status",
                "usage_status",
                "flush_usage",
                "event_channel",
                "client_ip",
            ],
            views: &[OF_TENANTS, OF_ALL, PROGRESS],
        },
        Level::Admin => Objects {
            functions: &["log_usage", "hash_columns", "seal_row", "ledger_changes"],
            views: &[OF_TENANTS, OF_ALL, PROGRESS],
        },
    }
}

/// Issuers and hosts see the rows of their tenants in these views, and others all rows.
const OF_TENANTS: &[&str] = &[
    "keys",
    "usage",
    "usage_hourly",
    "usage_daily",
    "usage_units",
    "usage_tags",
    "usage_endpoints",
    "top_keys",
    "top_refusals",
    "touches",
    "tenants",
    "members",
    "expiring_soon",
    "stale_keys",
    "recent_refusals",
];

const OF_ALL: &[&str] = &[
    "scopes",
    "roles",
    "routes",
    "endpoints",
    "audit",
    "events",
    "overprivileged_keys",
    "isolation",
    "metrics",
    "alarms",
    "usage_nodes",
];

const PROGRESS: &[&str] = &["hashing_progress", "ledgers"];
