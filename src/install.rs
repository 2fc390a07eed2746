//! The install script: the files of SQL, in their order.

/// Takes files with their names. Each requires the one before it: pgrx writes pieces that don't
/// depend on one another in any order.
macro_rules! install {
    ($name:literal $path:literal; $($rest:tt)*) => {
        pgrx::extension_sql_file!($path, name = $name, bootstrap);
        install!(@after $name; $($rest)*);
    };
    (@after $before:literal; $name:literal $path:literal; $($rest:tt)*) => {
        pgrx::extension_sql_file!($path, name = $name, requires = [$before]);
        install!(@after $name; $($rest)*);
    };
    (@after $before:literal;) => {};
}

install! {
    "schema" "../sql/install/schema.sql";
    "catalog_tables" "../sql/install/catalog/tables.sql";
    "catalog_version" "../sql/install/catalog/version.sql";
    "lag" "../sql/install/lag.sql";
    "limit" "../sql/install/limit.sql";
    "verdict" "../sql/install/verdict.sql";
    "identity" "../sql/install/identity.sql";
    "decide" "../sql/install/decide.sql";
    "manage_own_rows" "../sql/install/manage/own_rows.sql";
    "audit" "../sql/install/audit.sql";
    "manage_events" "../sql/install/manage/events.sql";
    "usage_store" "../sql/install/usage/store.sql";
    "usage_restart" "../sql/install/usage/restart.sql";
    "usage_totals" "../sql/install/usage/totals.sql";
    "usage_partitions" "../sql/install/usage/partitions.sql";
    "usage_maintain" "../sql/install/usage/maintain.sql";
    "usage_session" "../sql/install/usage/session.sql";
    "usage_standby" "../sql/install/usage/standby.sql";
    "usage_views" "../sql/install/usage/views.sql";
    "rows_digest" "../sql/install/rows/digest.sql";
    "rows_protect" "../sql/install/rows/protect.sql";
    "rows_seals" "../sql/install/rows/seals.sql";
    "ledger_tables" "../sql/install/ledger/tables.sql";
    "ledger" "../sql/install/ledger/ledger.sql";
    "tracking" "../sql/install/tracking.sql";
    "calls" "../sql/install/calls.sql";
    "manage_keyspace" "../sql/install/manage/keyspace.sql";
    "manage_catalogue" "../sql/install/manage/catalogue.sql";
    "manage_endpoint" "../sql/install/manage/endpoint.sql";
    "manage_tenant" "../sql/install/manage/tenant.sql";
    "manage_erase" "../sql/install/manage/erase.sql";
    "manage_drop_keyspace" "../sql/install/manage/drop_keyspace.sql";
    "manage_act_as" "../sql/install/manage/act_as.sql";
    "manage_listing" "../sql/install/manage/listing.sql";
    "manage_idle" "../sql/install/manage/idle.sql";
    "manage_key_ends" "../sql/install/manage/key_ends.sql";
    "manage_credit_events" "../sql/install/manage/credit_events.sql";
    "manage_key" "../sql/install/manage/key.sql";
    "manage_credits" "../sql/install/manage/credits.sql";
    "manage_replay" "../sql/install/manage/replay.sql";
    "manage_access" "../sql/install/manage/access.sql";
    "manage_profile" "../sql/install/manage/profile.sql";
    "manage_token" "../sql/install/manage/token.sql";
    "manage_revocations" "../sql/install/manage/revocations.sql";
    "manage_audit_proof" "../sql/install/manage/audit_proof.sql";
    "manage_usage" "../sql/install/manage/usage.sql";
    "manage_usage_status" "../sql/install/manage/usage_status.sql";
    "manage_scopes_used" "../sql/install/manage/scopes_used.sql";
    "manage_ledgers" "../sql/install/manage/ledgers.sql";
    "manage_hashing_state" "../sql/install/manage/hashing_state.sql";
    "manage_isolation_register" "../sql/install/manage/isolation_register.sql";
    "manage_isolation" "../sql/install/manage/isolation.sql";
    "catalog_subscription" "../sql/install/catalog/subscription.sql";
    "manage_status" "../sql/install/manage/status.sql";
    "manage_metrics" "../sql/install/manage/metrics.sql";
    "manage_scanner" "../sql/install/manage/scanner.sql";
    "manage_wrap" "../sql/install/manage/wrap.sql";
    "serve" "../sql/install/serve/serve.sql";
    "serve_response" "../sql/install/serve/response.sql";
    "serve_openapi" "../sql/install/serve/openapi.sql";
    "manage_help_words" "../sql/install/manage/help_words.sql";
    "manage_help" "../sql/install/manage/help.sql";
    "manage_doctor_isolation" "../sql/install/manage/doctor_isolation.sql";
    "manage_doctor_replication" "../sql/install/manage/doctor_replication.sql";
    "manage_doctor_ledgers" "../sql/install/manage/doctor_ledgers.sql";
    "manage_doctor" "../sql/install/manage/doctor.sql";
}
pgrx::extension_sql_file!("../sql/install/privileges.sql", name = "privileges", finalize);
