//! The endpoints of the key service: the operations, the arguments that requests give
//! them, and the values that answers may show.

use serde_json::{Map, Value, json};

/// The type of an argument or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Texts,
    /// Networks, as texts.
    Networks,
    Uuid,
    Integer,
    Number,
    Boolean,
    /// RFC 3339.
    Moment,
    /// A length of time, as text.
    Interval,
    /// Any JSON value.
    Json,
}

/// An argument or a value.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub name: &'static str,
    pub kind: Kind,
    pub may_be_null: bool,
}

/// A list of names with their kinds; `Option<…>` for those that may be null.
macro_rules! named {
    (@kind Option $kind:ident) => { $crate::http::operation::Kind::$kind };
    (@kind $kind:ident) => { $crate::http::operation::Kind::$kind };
    (@null Option $kind:ident) => { true };
    (@null $kind:ident) => { false };
    ($($name:ident: $kind:ident $(<$inner:ident>)?),* $(,)?) => {
        &[$($crate::http::operation::Named {
            name: stringify!($name),
            kind: $crate::http::operation::named!(@kind $kind $($inner)?),
            may_be_null: $crate::http::operation::named!(@null $kind $($inner)?),
        }),*]
    };
}
pub(crate) use named;

/// A key in lists and answers.
const KEY: &[Named] = named! {
    key_id: Uuid, display_id: Option<Text>, label: Option<Text>, status: Text, kind: Text,
    environment: Text, key_prefix: Option<Text>, key_snippet: Option<Text>, scopes: Texts,
    role: Option<Text>, owner: Option<Text>, allowlist: Option<Networks>, limits: Option<Json>,
    credits: Option<Integer>, refill: Option<Json>, metadata: Option<Json>, created_at: Moment,
    expires_at: Option<Moment>, last_used_at: Option<Moment>, revoked_at: Option<Moment>,
    revoked_reason: Option<Text>, rotated_to: Option<Uuid>,
};

/// A key that was just made.
const NEW_KEY: &[Named] = named! {
    api_key: Text, key_id: Uuid, display_id: Option<Text>, label: Option<Text>, status: Text,
    kind: Text, environment: Text, key_prefix: Option<Text>, key_snippet: Option<Text>,
    scopes: Texts, role: Option<Text>, owner: Option<Text>, allowlist: Option<Networks>,
    limits: Option<Json>, credits: Option<Integer>, metadata: Option<Json>, created_at: Moment,
    expires_at: Option<Moment>,
};

/// The result of `whoami`. A person has no key.
const PROFILE: &[Named] = named! {
    key_id: Option<Uuid>, display_id: Option<Text>, label: Option<Text>, kind: Text,
    environment: Option<Text>, key_prefix: Option<Text>, key_snippet: Option<Text>, scopes: Texts,
    role: Option<Text>, owner: Option<Text>, created_at: Option<Moment>,
    expires_at: Option<Moment>, key_metadata: Option<Json>, tenant: Text, tenant_id: Uuid,
    plan: Option<Text>, metadata: Json, credits: Option<Integer>, refill: Option<Json>,
};

const LOGGED: &[Named] = named! {
    at: Moment, request_id: Uuid, key_id: Option<Uuid>, environment: Option<Text>, method: Option<Text>,
    endpoint: Option<Text>, status: Option<Integer>, outcome: Text, ip: Option<Text>,
    latency: Option<Number>, spend: Option<Integer>, weights: Option<Json>, subject: Option<Text>,
    tags: Option<Json>,
};

const COUNTED: &[Named] =
    named! { at: Moment, requests: Integer, refused: Integer, spend: Integer, units: Json };

/// A token that was just made.
const NEW_TOKEN: &[Named] = named! { token: Text, token_id: Uuid, expires_at: Moment };

const PAGE: &[Named] = named! { page: Integer, limit: Integer, total: Integer };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Mint,
    ListKeys,
    ShowKey,
    AlterKey,
    Rotate,
    Regenerate,
    Revoke,
    Disable,
    Enable,
    Whoami,
    UsageLogs,
    UsageTotals,
    DeriveToken,
    Jwks,
}

impl Operation {
    pub const ALL: [Operation; 14] = [
        Operation::Mint,
        Operation::ListKeys,
        Operation::ShowKey,
        Operation::AlterKey,
        Operation::Rotate,
        Operation::Regenerate,
        Operation::Revoke,
        Operation::Disable,
        Operation::Enable,
        Operation::Whoami,
        Operation::UsageLogs,
        Operation::UsageTotals,
        Operation::DeriveToken,
        Operation::Jwks,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Operation::Mint => "mint",
            Operation::ListKeys => "list_keys",
            Operation::ShowKey => "show_key",
            Operation::AlterKey => "alter_key",
            Operation::Rotate => "rotate",
            Operation::Regenerate => "regenerate",
            Operation::Revoke => "revoke",
            Operation::Disable => "disable",
            Operation::Enable => "enable",
            Operation::Whoami => "whoami",
            Operation::UsageLogs => "usage_logs",
            Operation::UsageTotals => "usage_totals",
            Operation::DeriveToken => "derive_token",
            Operation::Jwks => "jwks",
        }
    }

    pub fn named(name: &str) -> Option<Operation> {
        Operation::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// What it does, for people who read a description of the API.
    pub const fn summary(self) -> &'static str {
        match self {
            Operation::Mint => "Make a key",
            Operation::ListKeys => "List the keys",
            Operation::ShowKey => "Show a key",
            Operation::AlterKey => "Change a key",
            Operation::Rotate => "Rotate a key",
            Operation::Regenerate => "Replace the key by a new one",
            Operation::Revoke => "Revoke a key",
            Operation::Disable => "Disable a key",
            Operation::Enable => "Enable a key",
            Operation::Whoami => "Show who is asking",
            Operation::UsageLogs => "List the requests",
            Operation::UsageTotals => "Count the requests",
            Operation::DeriveToken => "Make a token of the key",
            Operation::Jwks => "Show the public keys that check tokens",
        }
    }

    pub const fn arguments(self) -> &'static [Named] {
        match self {
            Operation::Mint => named! {
                label: Option<Text>, environment: Option<Text>, kind: Text, scopes: Texts,
                role: Option<Text>, owner: Option<Text>, allowlist: Option<Networks>,
                expires_at: Option<Moment>, limits: Option<Json>, metadata: Option<Json>,
            },
            Operation::ListKeys => named! {
                include_revoked: Boolean, status: Option<Text>, kind: Option<Text>,
                environment: Option<Text>, page: Option<Integer>, per_page: Option<Integer>,
            },
            Operation::AlterKey => named! {
                label: Option<Text>, scopes: Texts, role: Option<Text>, owner: Option<Text>,
                allowlist: Option<Networks>, expires_at: Option<Moment>, limits: Option<Json>,
                metadata: Option<Json>,
            },
            Operation::Rotate => named! { grace: Interval },
            Operation::Regenerate => {
                named! { label: Option<Text>, environment: Option<Text>, kind: Text }
            }
            Operation::Revoke => named! { reason: Option<Text> },
            Operation::UsageLogs => named! {
                page: Option<Integer>, per_page: Option<Integer>, all_keys: Option<Boolean>,
            },
            Operation::UsageTotals => named! {
                per: Option<Text>, since: Option<Moment>, until: Option<Moment>,
                all_keys: Option<Boolean>,
            },
            Operation::DeriveToken => named! {
                ttl: Interval, scopes: Option<Texts>, allowlist: Option<Networks>,
                audience: Option<Text>, claims: Option<Json>,
            },
            Operation::ShowKey
            | Operation::Disable
            | Operation::Enable
            | Operation::Whoami
            | Operation::Jwks => &[],
        }
    }

    /// Whether requests may give an argument where the endpoint has no mapping. Clients
    /// don't choose what a token tells other services: that is for the product to say.
    pub fn is_for_clients(self, argument: &str) -> bool {
        self != Operation::DeriveToken || !matches!(argument, "audience" | "claims")
    }

    pub fn argument(self, name: &str) -> Option<Named> {
        self.arguments().iter().copied().find(|argument| argument.name == name)
    }

    /// The values of the whole answer.
    pub const fn values(self) -> &'static [Named] {
        match self {
            Operation::Mint | Operation::Rotate | Operation::Regenerate => NEW_KEY,
            Operation::Whoami => PROFILE,
            Operation::ListKeys | Operation::UsageLogs => PAGE,
            Operation::UsageTotals => &[],
            Operation::DeriveToken => NEW_TOKEN,
            Operation::Jwks => named! { keys: Json },
            Operation::ShowKey
            | Operation::AlterKey
            | Operation::Revoke
            | Operation::Disable
            | Operation::Enable => KEY,
        }
    }

    /// The values of each row; `None` if the answer has no rows.
    pub const fn rows(self) -> Option<&'static [Named]> {
        match self {
            Operation::ListKeys => Some(KEY),
            Operation::UsageLogs => Some(LOGGED),
            Operation::UsageTotals => Some(COUNTED),
            _ => None,
        }
    }

    /// Whether it changes nothing, so that GET may do it.
    pub const fn only_reads(self) -> bool {
        matches!(
            self,
            Operation::ListKeys
                | Operation::ShowKey
                | Operation::Whoami
                | Operation::UsageLogs
                | Operation::UsageTotals
                | Operation::Jwks
        )
    }

    /// Whether the answer has a new key or token.
    pub const fn shows_key(self) -> bool {
        matches!(
            self,
            Operation::Mint | Operation::Rotate | Operation::Regenerate | Operation::DeriveToken
        )
    }

    /// Whether it takes a key: other operations may be public, by a route.
    pub const fn needs_key(self) -> bool {
        !matches!(self, Operation::Jwks)
    }

    /// Whether a request may name a key, by `{id}` in the endpoint's pattern.
    pub const fn takes_key(self) -> bool {
        !matches!(
            self,
            Operation::Mint
                | Operation::ListKeys
                | Operation::Regenerate
                | Operation::Whoami
                | Operation::DeriveToken
                | Operation::Jwks
        )
    }

    /// The status of an answer, if the endpoint does not say another.
    pub const fn status(self) -> i32 {
        match self {
            Operation::Mint => 201,
            _ => 200,
        }
    }

    /// The template of answers for endpoints without a template.
    pub fn template(self) -> Value {
        let fields = |values: &[Named]| {
            let field =
                |value: &Named| (value.name.into(), Value::String(format!("{{{}}}", value.name)));
            Value::Object(values.iter().map(field).collect::<Map<_, _>>())
        };
        let rows = || fields(self.rows().unwrap_or_default());
        match self {
            Operation::ListKeys => {
                json!({"keys": [rows()], "page": "{page}", "limit": "{limit}", "total": "{total}"})
            }
            Operation::UsageLogs => json!({"data": [rows()], "meta": fields(PAGE)}),
            Operation::UsageTotals => json!({"data": [rows()]}),
            _ => fields(self.values()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::template::{Names, Template};

    #[test]
    fn operations_are_found_by_their_names() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            assert_eq!(Operation::named(operation.name()), Some(operation));
        }
        assert_eq!(Operation::named("drop_keyspace"), None);
    }

    #[test]
    fn default_templates_can_be_filled() {
        for operation in Operation::ALL {
            let names = Names { whole: operation.values(), row: operation.rows() };
            Template::parse(&operation.template(), names).unwrap();
        }
    }

    #[test]
    fn only_new_keys_are_shown() {
        for operation in Operation::ALL {
            let all = operation.values().iter().chain(operation.rows().unwrap_or_default());
            let shows =
                all.map(|value| value.name).any(|name| name == "api_key" || name == "token");
            assert_eq!(shows, operation.shows_key(), "{operation:?}");
            assert!(!(shows && operation.only_reads()), "{operation:?}");
        }
    }

    #[test]
    fn no_request_names_a_tenant_or_a_keyspace() {
        for operation in Operation::ALL {
            for argument in operation.arguments() {
                assert!(!["tenant", "keyspace", "credits"].contains(&argument.name));
            }
        }
    }
}
