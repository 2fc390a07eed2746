//! Tokens: what was signed is read, and everything else is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forged;
mod made;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keysmith_core::token::keys::{SigningSecrets, TokenKeys};
use keysmith_core::token::new::{NewToken, Unfit};
use keysmith_core::token::verify::{Invalid, Recognized, Token, recognize};
use serde_json::{Map, Value};
use std::sync::LazyLock;

const ISSUER: &str = "https://api.example.com";
const KEY_ID: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
const SECOND: i64 = 1_000_000;
/// 2030-01-01 00:00:00 UTC, as PostgreSQL counts and as JWTs do.
const NOW: i64 = 946_771_200 * SECOND;
const NOW_SECOND: i64 = 1_893_456_000;

fn secrets(generations: &[u8]) -> SigningSecrets {
    let line =
        |generation| format!("{generation}:{}\n", format!("{generation}{generation}").repeat(32));
    SigningSecrets::parse(&generations.iter().map(line).collect::<String>()).unwrap()
}

fn keys() -> TokenKeys {
    secrets(&[1]).of_keyspace("default")
}

fn id(text: &str) -> [u8; 16] {
    hex::decode(text.replace('-', "")).unwrap().try_into().unwrap()
}

fn new<'a>() -> NewToken<'a> {
    static KEY: LazyLock<[u8; 16]> = LazyLock::new(|| id(KEY_ID));
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    NewToken {
        issuer: ISSUER,
        audience: &[],
        key_id: &KEY,
        token_id: &[7; 16],
        tenant: "acme",
        environment: "live",
        scopes: &["images:read", "images:write"],
        allowlist: None,
        issued_at: NOW,
        expires_at: NOW + 900 * SECOND,
        claims: &NONE,
    }
}

fn signed(new: &NewToken, keys: &TokenKeys) -> Result<String, Unfit> {
    new.sign(keys.newest().unwrap()).map(|signed| signed.token)
}

fn good() -> String {
    signed(&new(), &keys()).unwrap()
}

/// The claims of a good token.
fn claims() -> String {
    let token = good();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    String::from_utf8(payload).unwrap()
}

/// `None` for a text that does not count as a token.
fn check(keys: &TokenKeys, text: &str) -> Option<Result<Token, Invalid>> {
    match recognize(keys, text.as_bytes()) {
        Recognized::Token(presented) => Some(presented.verify()),
        Recognized::Key | Recognized::UnknownKid => None,
    }
}

fn verified(text: &str) -> Token {
    check(&keys(), text).unwrap().unwrap()
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Another last character that stands for the same bytes.
fn trailing_bits(text: &str) -> String {
    let (start, last) = text.split_at(text.len() - 1);
    let next = |byte: u8| char::from(byte + 1);
    format!("{start}{}", next(last.as_bytes()[0]))
}
