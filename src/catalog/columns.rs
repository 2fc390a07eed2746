//! The columns of our tables, numbered from 1 in the order of their creation, and their
//! types. Each backend compares these lists with the tables before it reads them: see
//! `tables`. A value that is read as one of another type ends the server.

use pg::scan::Column;
use pgrx::pg_sys;

macro_rules! columns {
    ($($table:ident { $($column:ident: $type:ident),* $(,)? })*) => {$(
        #[allow(non_upper_case_globals, non_camel_case_types, dead_code)]
        pub mod $table {
            enum Order { _before_the_first, $($column),* }
            $(pub const $column: i16 = Order::$column as i16;)*
            pub const COLUMNS: &[pg::scan::Column] =
                &[$((stringify!($column), super::types::$type)),*];
        }
    )*};
}

#[allow(non_upper_case_globals)]
mod types {
    use pgrx::pg_sys::BuiltinOid;
    pub const bigint: BuiltinOid = BuiltinOid::INT8OID;
    pub const boolean: BuiltinOid = BuiltinOid::BOOLOID;
    pub const bytea: BuiltinOid = BuiltinOid::BYTEAOID;
    pub const integer: BuiltinOid = BuiltinOid::INT4OID;
    pub const jsonb: BuiltinOid = BuiltinOid::JSONBOID;
    pub const moment: BuiltinOid = BuiltinOid::TIMESTAMPTZOID;
    pub const networks: BuiltinOid = BuiltinOid::CIDRARRAYOID;
    pub const role: BuiltinOid = BuiltinOid::REGROLEOID;
    pub const smallint: BuiltinOid = BuiltinOid::INT2OID;
    pub const text: BuiltinOid = BuiltinOid::TEXTOID;
    pub const texts: BuiltinOid = BuiltinOid::TEXTARRAYOID;
    pub const uuid: BuiltinOid = BuiltinOid::UUIDOID;
}

columns! {
    keyspace {
        keyspace: text, event_channel: text, empty_scopes: text, default_scopes: texts,
        max_active_keys: integer, at_max: text, label_length: integer, wildcards: boolean,
        schemes: texts, unlisted_routes: text, managed_by: text, display_id: text,
        display_prefix: text, display_snippet: text, has_imports: boolean, generation: smallint,
        created_at: moment, limits: text, charges: texts, usage_log: text, usage_details: boolean,
        has_bar_imports: boolean,
    }
    keyspace_prefix { keyspace: text, kind: text, environment: text, prefix: text }
    answer { keyspace: text, answer: text, status: integer, code: text, message: text }
    plan_feature { keyspace: text, feature: text, plans: texts }
    scope { keyspace: text, scope: text, description: text, implies: texts }
    role { keyspace: text, role: text, scopes: texts }
    route {
        keyspace: text, method: text, pattern: text, variant: text, scopes: text, kind: text,
        weight: integer, limits: text,
    }
    tenant {
        tenant_id: uuid, suspended_at: moment, created_at: moment, keyspace: text, name: text,
        plan: text, suspended_reason: text, metadata: jsonb, limits: text,
    }
    member { tenant_id: uuid, keyspace: text, member: text, role: text }
    key {
        key_id: uuid, tenant_id: uuid, created_at: moment, expires_at: moment, disabled_at: moment,
        revoked_at: moment, generation: smallint, digest: bytea, keyspace: text, environment: text,
        kind: text, role: text, owner: text, scopes: texts, allowlist: networks, metadata: jsonb,
        label: text, key_prefix: text, key_snippet: text, created_by: text, revoked_reason: text,
        rotated_to: uuid, display_id: text, regenerated: boolean, imported: boolean, origin: uuid,
        limits: text, shared_limits: text, purse: uuid,
    }
    credit {
        credit_id: uuid, key_id: uuid, tenant_id: uuid, balance: bigint, refill: bigint,
        every: text, refilled_at: moment,
    }
    access { role: role, level: text, tenant_id: uuid, granted_at: moment }
    audit_entry {
        keyspace: text, entry: bigint, at: moment, action: text, generation: smallint,
        content: bytea, hash: bytea,
    }
    touch {
        key_id: uuid, tenant_id: uuid, schema: text, relation: text, operation: text, rows: bigint,
        first_at: moment, last_at: moment, request_id: uuid,
    }
}

/// The columns of the type `verdict`, and their types.
pub const VERDICT: [Column; 21] = {
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
