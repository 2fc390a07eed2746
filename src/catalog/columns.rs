//! The columns of our tables, numbered from 1 in the order of their creation. Each
//! backend compares these lists with the tables before it reads them: see `tables`.

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
        wildcards schemes unlisted_routes display_id display_prefix display_snippet has_imports generation
        created_at usage_log usage_details
    }
    keyspace_prefix { keyspace kind environment prefix }
    answer { keyspace answer status code message }
    plan_feature { keyspace feature plans }
    scope { keyspace scope description implies }
    role { keyspace role scopes }
    route { keyspace method pattern variant scopes kind }
    tenant {
        tenant_id suspended_at created_at keyspace name plan suspended_reason metadata
    }
    member { tenant_id keyspace member role }
    key {
        key_id tenant_id created_at expires_at disabled_at revoked_at generation digest keyspace
        environment kind role owner scopes allowlist metadata label key_prefix key_snippet
        created_by revoked_reason rotated_to display_id regenerated imported
    }
}
