//! The columns of our tables, numbered from 1 in the order of their creation. Each
//! backend compares these lists with the tables before it reads them: see `tables`.

use pgrx::pg_sys;

macro_rules! columns {
    ($($table:ident { $($column:ident)* })*) => {$(
        #[allow(non_upper_case_globals, non_camel_case_types, dead_code)]
        pub mod $table {
            enum Order { _before_the_first, $($column),* }
            $(pub const $column: i16 = Order::$column as i16;)*
            pub const NAMES: &[&str] = &[$(stringify!($column)),*];
        }
    )*};
}

columns! {
    keyspace {
        keyspace event_channel empty_scopes default_scopes max_active_keys at_max label_length
        wildcards schemes unlisted_routes managed_by display_id display_prefix display_snippet
        has_imports generation created_at limits charges usage_log usage_details
        has_bar_imports
    }
    keyspace_prefix { keyspace kind environment prefix }
    answer { keyspace answer status code message }
    plan_feature { keyspace feature plans }
    scope { keyspace scope description implies }
    role { keyspace role scopes }
    route { keyspace method pattern variant scopes kind weight limits }
    tenant {
        tenant_id suspended_at created_at keyspace name plan suspended_reason metadata limits
    }
    member { tenant_id keyspace member role }
    key {
        key_id tenant_id created_at expires_at disabled_at revoked_at generation digest keyspace
        environment kind role owner scopes allowlist metadata label key_prefix key_snippet
        created_by revoked_reason rotated_to display_id regenerated imported origin limits
        shared_limits purse
    }
    credit { credit_id key_id tenant_id balance refill every refilled_at }
    access { role level tenant_id granted_at }
    audit_entry { keyspace entry at action generation content hash }
    touch { key_id tenant_id schema relation operation rows first_at last_at request_id }
}

/// The columns of the type `verdict`, and their types.
pub const VERDICT: [(&str, pg_sys::BuiltinOid); 21] = {
    use pg_sys::BuiltinOid::*;
    [
        ("ok", BOOLOID),
        ("status", INT4OID),
        ("code", TEXTOID),
        ("message", TEXTOID),
        ("reason", TEXTOID),
        ("key_id", UUIDOID),
        ("tenant", TEXTOID),
        ("tenant_id", UUIDOID),
        ("keyspace", TEXTOID),
        ("environment", TEXTOID),
        ("kind", TEXTOID),
        ("owner", TEXTOID),
        ("role", TEXTOID),
        ("scopes", TEXTARRAYOID),
        ("metadata", JSONBOID),
        ("expires_at", TIMESTAMPTZOID),
        ("limit_name", TEXTOID),
        ("limit_remaining", INT8OID),
        ("retry_after", INTERVALOID),
        ("credits_remaining", INT8OID),
        ("request_id", UUIDOID),
    ]
};
