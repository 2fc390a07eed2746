//! The presented key, and the bytes by which it is looked up.

use super::token;
use crate::catalog::directory::{self, Form, Known};
use crate::catalog::policy::Policy;
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::foreign::Hashings;
use keysmith_core::key::{MAX_KEY_LEN, format};
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::MAX_TOKEN_LEN;
use keysmith_core::token::verify::Token;
use pg::call::{Bytes, Call};
use std::rc::Rc;

/// The key or token that a caller presents.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    Nothing,
    /// A key, or a token in its place.
    Key(&'a [u8]),
    Digest(KeyDigest),
    /// A text or bytea that can't be a key.
    Garbage,
    /// A header that does not contain a well-formed key.
    MalformedHeader,
}

impl<'a> Presented<'a> {
    /// The key in a text argument.
    #[inline]
    pub fn argument(call: &'a Call, n: usize) -> Presented<'a> {
        match call.bytes(n, MAX_KEY_LEN) {
            None => Presented::Nothing,
            Some(Bytes::Read(key)) => Presented::Key(key),
            Some(Bytes::TooLong) => match call.bytes(n, MAX_TOKEN_LEN) {
                Some(Bytes::Read(text)) => Presented::text(text),
                _ => Presented::Garbage,
            },
        }
    }

    /// The key that a text is.
    #[inline]
    pub fn text(text: &'a [u8]) -> Presented<'a> {
        match token::has_fitting_length(text) {
            true => Presented::Key(text),
            false => Presented::Garbage,
        }
    }

    /// The bytes to look the key up by, or the reason why the key is refused without a look-up.
    #[inline]
    pub fn sought(self, policy: &Policy, keyspace: &[u8]) -> Result<Sought<'a>, Reason> {
        match self {
            Presented::Nothing => Err(Reason::Missing),
            Presented::MalformedHeader => Err(Reason::MalformedHeader),
            Presented::Garbage => Err(Reason::MalformedKey),
            Presented::Key(key) if key.first() == Some(&token::FIRST_BYTE) => {
                token_or_key(key, policy, keyspace)
            }
            Presented::Key(key) => sought_key(key, policy),
            Presented::Digest(digest) => Ok(Sought::Digest(digest)),
        }
    }
}

#[inline]
fn sought_key<'a>(key: &'a [u8], policy: &Policy) -> Result<Sought<'a>, Reason> {
    // Imported keys may have any format. Without them, a mistyped key is refused here.
    if !policy.has_imports && !format::is_well_formed(key) {
        return Err(Reason::MalformedKey);
    }
    Ok(match policy.hashings.are_several() {
        true => Sought::Imported(key, policy.hashings),
        false => Sought::Key(policy.hashings.first_part(key)),
    })
}

#[cold]
#[inline(never)]
fn token_or_key<'a>(
    text: &'a [u8],
    policy: &Policy,
    keyspace: &[u8],
) -> Result<Sought<'a>, Reason> {
    match token::read(text, policy, keyspace) {
        Some(Ok(token)) => Ok(Sought::Token(token)),
        Some(Err(_)) => Err(Reason::TokenInvalid),
        None if text.len() > MAX_KEY_LEN => Err(Reason::MalformedKey),
        None => sought_key(text, policy),
    }
}

/// The bytes by which a key is looked up, or the token that names it.
pub enum Sought<'a> {
    /// The text that is hashed.
    Key(&'a [u8]),
    /// A key that may be stored by one of several digests.
    Imported(&'a [u8], Hashings),
    Digest(KeyDigest),
    /// A token with a good signature.
    Token(Rc<Token>),
}

impl Sought<'_> {
    /// The directory's entry for these bytes.
    #[inline]
    pub fn known(&self, keyspace: &[u8]) -> Option<Known> {
        match self {
            Sought::Key(key) | Sought::Imported(key, _) => {
                directory::look_up(keyspace, Form::Key, key)
            }
            Sought::Digest(digest) => directory::look_up(keyspace, Form::Digest, &digest.0),
            Sought::Token(token) => directory::look_up(keyspace, Form::Token, &token.key_id),
        }
    }
}
