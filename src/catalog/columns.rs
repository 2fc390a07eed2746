//! The columns of our tables, numbered from 1 in the order of their creation, and their types. Each
//! backend compares these lists with the tables before it reads them: see `tables`. Reading a value
//! as one of another type could crash the server.

use pg::column::Definition;
use pgrx::pg_sys;

macro_rules! columns {
    ($($table:ident { $($column:ident: $type:ident),* $(,)? })*) => {$(
        #[allow(non_upper_case_globals, non_camel_case_types, dead_code)]
        pub mod $table {
            enum Order { _before_the_first, $($column),* }
            $(pub const $column: pg::column::Column<pg::column::$type> =
                pg::column::Column::new(Order::$column as i16);)*
            pub const COLUMNS: &[pg::column::Definition] =
                &[$((stringify!($column), <pg::column::$type as pg::column::Kind>::OID)),*];
        }
    )*};
}

columns! {
    keyspace {
        keyspace: Text, event_channel: Text, empty_scopes: Text, default_scopes: Texts,
        max_active_keys: Integer, at_max: Text, label_length: Integer, wildcards: Boolean,
        schemes: Texts, unlisted_routes: Text, managed_by: Text, display_id: Text,
        display_prefix: Text, display_snippet: Text, has_imports: Boolean, generation: Smallint,
        created_at: Timestamp, limits: Text, charges: Texts, usage_log: Text, usage_details: Boolean,
        has_bar_imports: Boolean, has_last_part_imports: Boolean, has_sha512_imports: Boolean,
        error_body: Text, default_lifetime: Interval, max_lifetime: Interval, require_label: Boolean,
        unique_labels: Boolean, max_idle: Interval, max_idle_since: Timestamp,
        allowlist: Networks, key_limits: Text, key_credits: Bigint, issuer: Text,
        expiring_notice: Interval, failure_limit: Text, usage_tags: Texts,
    }
    keyspace_prefix { keyspace: Text, kind: Text, environment: Text, prefix: Text }
    answer { keyspace: Text, answer: Text, status: Integer, code: Text, message: Text }
    plan_feature { keyspace: Text, feature: Text, plans: Texts }
    scope { keyspace: Text, scope: Text, description: Text, implies: Texts }
    role { keyspace: Text, role: Text, scopes: Texts }
    route {
        keyspace: Text, method: Text, pattern: Text, variant: Text, scopes: Text, kind: Text,
        weight: Integer, limits: Text, is_public: Boolean,
    }
    endpoint {
        keyspace: Text, method: Text, pattern: Text, operation: Text, request: Text, response: Text,
        status: Integer,
    }
    tenant {
        tenant_id: Uuid, suspended_at: Timestamp, created_at: Timestamp, max_lifetime: Interval,
        keyspace: Text, name: Text, plan: Text, suspended_reason: Text, metadata: Jsonb, limits: Text,
        erased_at: Timestamp, allowlist: Networks, scopes: Texts,
    }
    member { tenant_id: Uuid, keyspace: Text, member: Text, role: Text }
    key {
        key_id: Uuid, tenant_id: Uuid, created_at: Timestamp, expires_at: Timestamp, disabled_at: Timestamp,
        revoked_at: Timestamp, generation: Smallint, digest: Bytea, keyspace: Text, environment: Text,
        kind: Text, role: Text, owner: Text, scopes: Texts, allowlist: Networks, metadata: Jsonb,
        label: Text, key_prefix: Text, key_snippet: Text, created_by: Text, revoked_reason: Text,
        rotated_to: Uuid, display_id: Text, regenerated: Boolean, imported: Boolean, origin: Uuid,
        limits: Text, shared_limits: Text, purse: Uuid,
        idempotency_digest: Bytea, arguments_digest: Bytea, enabled_at: Timestamp, disabled_reason: Text,
    }
    credit {
        credit_id: Uuid, key_id: Uuid, tenant_id: Uuid, balance: Bigint, refill: Bigint,
        every: Text, refilled_at: Timestamp, anchor: Timestamp, low: Bigint, told: Boolean,
        told_low: Boolean,
    }
    charge {
        request_id: Uuid, credit_id: Uuid, tenant_id: Uuid, key_id: Uuid, spend: Bigint, at: Timestamp,
        settled_at: Timestamp, settled: Bigint, keyspace: Text, environment: Text, usage_log: Text,
    }
    access {
        role: Regrole, level: Text, tenant_id: Uuid, keyspace: Text, granted_at: Timestamp,
    }
    heartbeat { one: Boolean, at: Timestamp }
    ledger {
        ledger_id: Uuid, server: Bigint, database: Oid, relation: Oid, schema_name: Text,
        table_name: Text, generation: Smallint, secret: Bytea, key_column: Text, shift: Smallint,
        columns: Texts, forms: Texts, began_at: Timestamp,
    }
    audit_entry {
        keyspace: Text, entry: Bigint, at: Timestamp, action: Text, generation: Smallint,
        content: Bytea, hash: Bytea,
    }
    touch {
        key_id: Uuid, tenant_id: Uuid, schema: Text, relation: Text, operation: Text, rows: Bigint,
        first_at: Timestamp, last_at: Timestamp, request_id: Uuid, member: Text,
    }
}

/// The columns of the type `verdict`, their types, and their labels in JSON.
macro_rules! verdict {
    ($first:ident: $of_first:ident, $($column:ident: $type:ident,)*) => {
        pub const VERDICT: &[Definition] = {
            use pg_sys::BuiltinOid::*;
            &[(stringify!($first), $of_first), $((stringify!($column), $type)),*]
        };
        pub const LABELS: &[&str] = &[
            concat!("{\"", stringify!($first), "\":"),
            $(concat!(",\"", stringify!($column), "\":")),*
        ];
    };
}

verdict! {
    ok: BOOLOID,
    status: INT4OID,
    code: TEXTOID,
    message: TEXTOID,
    reason: TEXTOID,
    key_id: UUIDOID,
    tenant: TEXTOID,
    tenant_id: UUIDOID,
    keyspace: TEXTOID,
    environment: TEXTOID,
    kind: TEXTOID,
    owner: TEXTOID,
    role: TEXTOID,
    scopes: TEXTARRAYOID,
    metadata: JSONBOID,
    expires_at: TIMESTAMPTZOID,
    limit_name: TEXTOID,
    limit_remaining: INT8OID,
    retry_after: INTERVALOID,
    credits_remaining: INT8OID,
    request_id: UUIDOID,
    label: TEXTOID,
    plan: TEXTOID,
    missing_scopes: TEXTOID,
    limit_limit: INT8OID,
    limit_window: INTERVALOID,
    limit_reset: INTERVALOID,
    limit_unit: TEXTOID,
}

/// The columns of the type `response`.
pub const RESPONSE: &[Definition] = {
    use pg_sys::BuiltinOid::*;
    &[
        ("handled", BOOLOID),
        ("status", INT4OID),
        ("headers", JSONBOID),
        ("body", JSONBOID),
        ("request_id", UUIDOID),
        ("ok", BOOLOID),
        ("tenant", TEXTOID),
        ("key_id", UUIDOID),
    ]
};
