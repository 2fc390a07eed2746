//! Checking a token.
//!
//! Only our own keys sign tokens, and only we check them here. So a token must be written exactly
//! as we write it: the header byte for byte, and the claims as our serializer prints them. That
//! leaves nothing to choose about algorithms, critical headers, members that occur twice, escapes,
//! white space, or the form of numbers.

use super::keys::{TYPE, TokenKey, TokenKeys, is_header};
use super::{LEEWAY, moment_of, uuid};
use crate::policy::allowlist::IpNet;
use crate::policy::rules::Instant;
use crate::policy::scope::{GrantList, is_grant};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SIGNATURE_LENGTH;
use serde_json::{Map, Value};

/// The longest header that is looked at, in base64url. Ours have 110 characters.
const MAX_HEADER_LEN: usize = 1024;

/// The kind of a text that was presented as a key.
pub enum Recognized<'k, 't> {
    /// An ordinary key, if anything.
    Key,
    /// It begins as our tokens do, but with a `kid` that is not known.
    UnknownKid,
    Token(Presented<'k, 't>),
}

/// A text with our `typ` and a known `kid`, which nobody has checked yet.
#[derive(Clone, Copy)]
pub struct Presented<'k, 't> {
    key: &'k TokenKey,
    text: &'t [u8],
    /// Whether the header is the one that the key's tokens have.
    has_our_header: bool,
}

/// Tells tokens from ordinary keys. `keys` are those of the keyspace.
#[inline]
pub fn recognize<'k, 't>(keys: &'k TokenKeys, text: &'t [u8]) -> Recognized<'k, 't> {
    // `{` encoded.
    if text.first() != Some(&b'e') {
        return Recognized::Key;
    }
    match keys.iter().find(|key| text.starts_with(&key.header)) {
        Some(key) => Recognized::Token(Presented { key, text, has_our_header: true }),
        None => recognize_foreign(keys, text),
    }
}

/// Looks for our `typ` and a known `kid` anywhere in a header that is not ours.
#[cold]
fn recognize_foreign<'k, 't>(keys: &'k TokenKeys, text: &'t [u8]) -> Recognized<'k, 't> {
    let header = text.split(|byte| *byte == b'.').next().unwrap_or_default();
    if header.len() == text.len() || header.len() > MAX_HEADER_LEN {
        return Recognized::Key;
    }
    let Ok(header) = URL_SAFE_NO_PAD.decode(header) else { return Recognized::Key };
    if is_header(&header) {
        return Recognized::UnknownKid;
    }
    let has = |wanted: &str| header.windows(wanted.len()).any(|part| part == wanted.as_bytes());
    match keys.iter().find(|key| has(&key.kid)) {
        Some(key) if has(TYPE) => Recognized::Token(Presented { key, text, has_our_header: false }),
        _ => Recognized::Key,
    }
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Expired,
    Invalid(Invalid),
}

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    Header,
    Form,
    Signature,
    Claims,
    Issuer,
    Audience,
    IssuedAhead,
}

impl Invalid {
    /// What was presented, for the operator.
    pub fn message(self) -> &'static str {
        match self {
            Invalid::Header => "a token with another header than ours have",
            Invalid::Form => "a token that has not three parts in base64url",
            Invalid::Signature => "a token with the signature of another key, or of other claims",
            Invalid::Claims => "a token with other claims than ours have",
            Invalid::Issuer => "a token of another issuer",
            Invalid::Audience => "a token for another audience",
            Invalid::IssuedAhead => "a token that was made in the future",
        }
    }
}

impl<'t> Presented<'_, 't> {
    pub fn text(&self) -> &'t [u8] {
        self.text
    }

    /// Checks the signature, and reads the claims.
    pub fn verify(&self) -> Result<Token, Invalid> {
        if !self.has_our_header {
            return Err(Invalid::Header);
        }
        let rest = self.text.get(self.key.header.len()..).unwrap_or_default();
        let dot = rest.iter().position(|byte| *byte == b'.').ok_or(Invalid::Form)?;
        let (signed, end) = self.text.split_at(self.key.header.len() + dot);
        let mut signature = [0; SIGNATURE_LENGTH];
        let length = URL_SAFE_NO_PAD.decode_slice(&end[1..], &mut signature);
        if length != Ok(SIGNATURE_LENGTH) {
            return Err(Invalid::Form);
        }
        if !self.key.has_signed(signed, &signature) {
            return Err(Invalid::Signature);
        }
        let payload = URL_SAFE_NO_PAD.decode(&rest[..dot]).map_err(|_| Invalid::Form)?;
        Token::read(self.key, &payload).ok_or(Invalid::Claims)
    }
}

/// A token with a good signature. Whether it is good at a moment is another question.
#[derive(Debug, PartialEq)]
pub struct Token {
    /// The key that signed it.
    kid: Box<str>,
    pub token_id: [u8; 16],
    /// The key that it was made from.
    pub key_id: [u8; 16],
    scopes: Vec<Box<[u8]>>,
    allowlist: Option<Vec<IpNet>>,
    pub issued_at: Instant,
    /// The token is not good from this moment on.
    pub expires_at: Instant,
    issuer: String,
    audience: Vec<String>,
}

impl Token {
    /// Reads claims that we have signed. They must be written exactly as we write them.
    fn read(key: &TokenKey, payload: &[u8]) -> Option<Token> {
        let claims: Map<String, Value> = serde_json::from_slice(payload).ok()?;
        if serde_json::to_vec(&claims).ok()? != payload {
            return None;
        }
        let text = |name| claims.get(name).and_then(Value::as_str);
        let moment = |name| claims.get(name).and_then(Value::as_i64).and_then(moment_of);
        let key_id = text("client_id").filter(|id| text("sub") == Some(id)).and_then(uuid)?;
        let allowlist = match claims.get("allowlist") {
            None => None,
            Some(networks) => Some(networks_of(networks)?),
        };
        let audience = match claims.get("aud")? {
            Value::String(one) => vec![one.clone()],
            Value::Array(several) => several.iter().map(owned).collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Token {
            kid: key.kid.clone(),
            token_id: text("jti").and_then(uuid)?,
            key_id,
            scopes: scopes_of(text("scope")?)?,
            allowlist,
            issued_at: moment("iat")?,
            expires_at: moment("exp")?,
            issuer: text("iss")?.into(),
            audience,
        })
    }

    /// The scopes that the token was made with. It gives those of them that its key holds:
    /// [`HeldScopes::narrowed`](crate::policy::scope::HeldScopes::narrowed).
    pub fn scopes(&self) -> GrantList<'_> {
        GrantList::Owned(&self.scopes)
    }

    /// The networks that the token may be used from, besides those of its key. `None` for all.
    pub fn allowlist(&self) -> Option<&[IpNet]> {
        self.allowlist.as_deref()
    }

    /// Whether a key that signed it is among these.
    pub fn is_signed_by(&self, keys: &TokenKeys) -> bool {
        keys.iter().any(|key| key.kid == self.kid)
    }

    /// Why the token is not good now, in a keyspace that has this issuer.
    pub fn refused(&self, issuer: &str, now: Instant) -> Option<Refused> {
        let invalid = if self.issuer != issuer {
            Invalid::Issuer
        } else if !self.audience.iter().any(|audience| audience == issuer) {
            Invalid::Audience
        } else if self.issued_at > now.saturating_add(LEEWAY) {
            Invalid::IssuedAhead
        } else {
            return (self.expires_at <= now).then_some(Refused::Expired);
        };
        Some(Refused::Invalid(invalid))
    }

    /// About how many bytes of memory it takes.
    pub(super) fn size(&self) -> usize {
        let texts = self.audience.iter().chain([&self.issuer]).map(String::len);
        let texts = texts.chain([self.kid.len()]);
        let scopes = self.scopes.iter().map(|scope| scope.len());
        let pieces = self.audience.len() + self.scopes.len();
        let networks = self.allowlist().map_or(0, size_of_val);
        // A piece has its place in a list, and its own allocation.
        size_of::<Token>() + texts.chain(scopes).sum::<usize>() + networks + 48 * pieces
    }
}

fn owned(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

fn scopes_of(scopes: &str) -> Option<Vec<Box<[u8]>>> {
    if scopes.is_empty() {
        return Some(Vec::new());
    }
    let grant = |name: &str| is_grant(name).then(|| Box::from(name.as_bytes()));
    scopes.split(' ').map(grant).collect()
}

fn networks_of(networks: &Value) -> Option<Vec<IpNet>> {
    let network = |network: &Value| network.as_str()?.parse().ok();
    networks.as_array()?.iter().map(network).collect()
}
