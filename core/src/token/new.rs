//! Making a token.

use super::keys::TokenKey;
use super::{MAX_TOKEN_LEN, moment_of, second_of, uuid_text};
use crate::policy::allowlist::IpNet;
use crate::policy::rules::Instant;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// The most levels of a claim of the caller.
const MAX_DEPTH: usize = 32;

/// Claims that the caller can't set. Ours come first. Those of the standards follow that say who
/// acts, when, for whom, or with which rights.
const RESERVED: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "jti",
    "client_id",
    "scope",
    "allowlist",
    "tenant",
    "environment",
    // RFC 7519, 8693, 7800, 9396 and 9493.
    "nbf",
    "act",
    "may_act",
    "cnf",
    "authorization_details",
    "sub_id",
    // RFC 9068, section 2.2.3.
    "roles",
    "groups",
    "entitlements",
    // OpenID Connect, and RFC 8417.
    "azp",
    "nonce",
    "auth_time",
    "acr",
    "amr",
    "at_hash",
    "c_hash",
    "sub_jwk",
    "sid",
    "events",
    "toe",
    "txn",
];

/// The content of a new token.
pub struct NewToken<'a> {
    pub issuer: &'a str,
    /// Whom the token is for. Empty for the issuer.
    pub audience: &'a [&'a str],
    pub key_id: &'a [u8; 16],
    pub token_id: &'a [u8; 16],
    pub tenant: &'a str,
    pub environment: &'a str,
    /// The grants that the token has. They are scopes, so they contain no spaces.
    pub scopes: &'a [&'a str],
    pub allowlist: Option<&'a [IpNet]>,
    pub issued_at: Instant,
    pub expires_at: Instant,
    /// Further claims, of the caller.
    pub claims: &'a Map<String, Value>,
}

/// A signed token.
pub struct Signed {
    pub token: String,
    /// When it expires, in whole seconds.
    pub expires_at: Instant,
}

/// Why a token can't be made.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The caller can't set this claim.
    Reserved(String),
    /// A claim of the caller has too many levels.
    TooDeep,
    /// It would not be good for a second, or would end after the year 9999.
    NoLife,
    /// The token would be too long.
    TooLong,
}

impl NewToken<'_> {
    pub fn sign(&self, key: &TokenKey) -> Result<Signed, Unfit> {
        if let Some(name) = self.claims.keys().find(|name| is_reserved(name)) {
            return Err(Unfit::Reserved(name.clone()));
        }
        if !self.claims.values().all(|claim| is_within(claim, MAX_DEPTH)) {
            return Err(Unfit::TooDeep);
        }
        let (from, to) = (second_of(self.issued_at), second_of(self.expires_at));
        let expires_at = moment_of(to).filter(|_| 0 <= from && from < to).ok_or(Unfit::NoLife)?;
        let payload = Value::Object(self.with_ours(from, to)).to_string();

        let mut token = String::from_utf8_lossy(&key.header).into_owned();
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = key.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        if token.len() > MAX_TOKEN_LEN {
            return Err(Unfit::TooLong);
        }
        Ok(Signed { token, expires_at })
    }

    /// All claims.
    fn with_ours(&self, from: i64, to: i64) -> Map<String, Value> {
        let key_id = Value::from(uuid_text(self.key_id));
        let audience = match self.audience {
            [] => self.issuer.into(),
            [one] => (*one).into(),
            several => several.into(),
        };
        let mut claims = self.claims.clone();
        claims.extend([
            ("iss".into(), self.issuer.into()),
            ("aud".into(), audience),
            ("sub".into(), key_id.clone()),
            ("client_id".into(), key_id),
            ("jti".into(), uuid_text(self.token_id).into()),
            ("iat".into(), from.into()),
            ("exp".into(), to.into()),
            ("scope".into(), self.scopes.join(" ").into()),
            ("tenant".into(), self.tenant.into()),
            ("environment".into(), self.environment.into()),
        ]);
        if let Some(networks) = self.allowlist {
            let networks = networks.iter().map(|network| Value::from(network.to_string()));
            claims.insert("allowlist".into(), networks.collect());
        }
        claims
    }
}

/// Whether a reader may take a claim for a reserved one. Some, such as those that use Go's
/// `encoding/json`, don't tell the case of names, and for them `\u{17f}` is an `s` too.
fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&&*name.to_uppercase().to_lowercase())
}

/// Whether a value has at most so many levels.
fn is_within(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return false };
    match value {
        Value::Array(items) => items.iter().all(|item| is_within(item, below)),
        Value::Object(members) => members.values().all(|member| is_within(member, below)),
        _ => true,
    }
}
