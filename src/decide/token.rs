//! Tokens that are presented in place of keys.
//!
//! A session remembers only that a signature is good. Each decision asks again what the token
//! allows, and whether its key is still good.

use crate::catalog::policy::Policy;
use crate::signing;
use keysmith_core::key::MAX_KEY_LEN;
use keysmith_core::token::MAX_TOKEN_LEN;
use keysmith_core::token::remembered::Remembered;
use keysmith_core::token::verify::{Invalid, Recognized, Refused, Token, recognize};
use pg::clock;
use std::cell::RefCell;
use std::rc::Rc;

/// The first byte of every token. Texts that begin with another one are never looked at.
pub const FIRST_BYTE: u8 = b'e';

thread_local! {
    static REMEMBERED: RefCell<Remembered> = RefCell::default();
}

/// Whether a text has a length that keys or tokens have.
#[inline]
pub fn has_fitting_length(text: &[u8]) -> bool {
    text.len() <= MAX_KEY_LEN || text.len() <= MAX_TOKEN_LEN && text.first() == Some(&FIRST_BYTE)
}

/// Reads a text that begins as tokens do. `None` if it is not a token, so that it counts as a key.
pub fn read(text: &[u8], policy: &Policy, keyspace: &[u8]) -> Option<Result<Rc<Token>, Invalid>> {
    // Callers may name any keyspace. Making keys for one takes time.
    if !policy.exists() {
        return None;
    }
    let mut keys = signing::keys_of(keyspace);
    if matches!(recognize(&keys, text), Recognized::UnknownKid) {
        signing::look_again();
        keys = signing::keys_of(keyspace);
    }
    let Recognized::Token(presented) = recognize(&keys, text) else { return None };
    let token = REMEMBERED.with_borrow_mut(|remembered| remembered.verify(&presented));
    Some(token.and_then(|token| match problem(&token, policy) {
        None => Ok(token),
        Some(problem) => Err(problem),
    }))
}

/// Why a token with a good signature is not good in a keyspace. Whether it has expired is a
/// question of the rules.
fn problem(token: &Token, policy: &Policy) -> Option<Invalid> {
    match token.refused(&policy.issuer, clock::now()) {
        Some(Refused::Invalid(problem)) => Some(problem),
        Some(Refused::Expired) | None => None,
    }
}

/// Whether a token that was good is not good any more, in a keyspace that has this policy.
pub fn is_over(token: &Token, policy: &Policy, keyspace: &[u8]) -> bool {
    problem(token, policy).is_some() || !token.is_signed_by(&signing::keys_of(keyspace))
}
