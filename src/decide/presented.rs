//! The presented key, and the bytes by which it is looked up.

use crate::catalog::directory::{self, Form, Known};
use crate::catalog::policy::Policy;
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::foreign::Hashings;
use keysmith_core::key::format;
use keysmith_core::policy::verdict::Reason;

/// The key that a caller presents.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    Nothing,
    Key(&'a [u8]),
    Digest(KeyDigest),
    /// A text or bytea that can't be a key.
    Garbage,
    /// A header that does not contain a well-formed key.
    MalformedHeader,
}

impl<'a> Presented<'a> {
    /// The bytes to look the key up by, or the reason why the key is refused without a look-up.
    #[inline]
    pub fn sought(self, policy: &Policy) -> Result<Sought<'a>, Reason> {
        match self {
            Presented::Nothing => Err(Reason::Missing),
            Presented::MalformedHeader => Err(Reason::MalformedHeader),
            Presented::Garbage => Err(Reason::MalformedKey),
            // Imported keys may have any format. Without them, a mistyped key is refused here.
            Presented::Key(key) if !policy.has_imports && !format::is_well_formed(key) => {
                Err(Reason::MalformedKey)
            }
            Presented::Key(key) if policy.hashings.are_several() => {
                Ok(Sought::Imported(key, policy.hashings))
            }
            Presented::Key(key) => Ok(Sought::Key(policy.hashings.first_part(key))),
            Presented::Digest(digest) => Ok(Sought::Digest(digest)),
        }
    }
}

/// The bytes by which a key is looked up.
#[derive(Clone, Copy)]
pub enum Sought<'a> {
    /// The text that is hashed.
    Key(&'a [u8]),
    /// A key that may be stored by one of several digests.
    Imported(&'a [u8], Hashings),
    Digest(KeyDigest),
}

impl Sought<'_> {
    pub fn digest(&self) -> KeyDigest {
        match self {
            Sought::Key(key) | Sought::Imported(key, _) => KeyDigest::of(key),
            Sought::Digest(digest) => *digest,
        }
    }

    /// The directory's entry for these bytes.
    #[inline]
    pub fn known(&self, keyspace: &[u8]) -> Option<Known> {
        match self {
            Sought::Key(key) | Sought::Imported(key, _) => {
                directory::look_up(keyspace, Form::Key, key)
            }
            Sought::Digest(digest) => directory::look_up(keyspace, Form::Digest, &digest.0),
        }
    }
}
