//! What is handed in for a key, and what a key is looked for by.

use crate::catalog::directory::{self, Form, Known};
use crate::catalog::policy::Policy;
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::format;
use keysmith_core::policy::verdict::Reason;

/// What was handed in for a key.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    Nothing,
    Key(&'a [u8]),
    Digest(KeyDigest),
    /// Something that no key could be.
    Garbage,
    /// A header that holds none.
    MalformedHeader,
}

impl<'a> Presented<'a> {
    /// What to look for a key by, or why there is nothing to look for.
    #[inline]
    pub fn sought(self, policy: &Policy) -> Result<Sought<'a>, Reason> {
        match self {
            Presented::Nothing => Err(Reason::Missing),
            Presented::MalformedHeader => Err(Reason::MalformedHeader),
            Presented::Garbage => Err(Reason::MalformedKey),
            // Imported keys have formats of their own; elsewhere typos end here.
            Presented::Key(key) if !policy.has_imports && !format::is_well_formed(key) => {
                Err(Reason::MalformedKey)
            }
            Presented::Key(key) => Ok(Sought::Key(policy.hashed_part(key))),
            Presented::Digest(digest) => Ok(Sought::Digest(digest)),
        }
    }
}

/// What a key is looked for by.
#[derive(Clone, Copy)]
pub enum Sought<'a> {
    /// That of which the digest is taken.
    Key(&'a [u8]),
    Digest(KeyDigest),
}

impl Sought<'_> {
    pub fn digest(&self) -> KeyDigest {
        match self {
            Sought::Key(key) => KeyDigest::of(key),
            Sought::Digest(digest) => *digest,
        }
    }

    /// What the directory tells of it.
    #[inline]
    pub fn known(&self, keyspace: &[u8]) -> Option<Known> {
        match self {
            Sought::Key(key) => directory::look_up(keyspace, Form::Key, key),
            Sought::Digest(digest) => directory::look_up(keyspace, Form::Digest, &digest.0),
        }
    }
}
