//! The digest that is stored instead of a key.
//!
//! The *key digest* is the plain SHA-256 of the whole key. Other systems store it, and callers
//! that hash keys themselves pass it. We *store* a digest of the key digest. So a stolen stored
//! digest is not accepted as a key digest, and a key digest is not accepted as a key.

use super::subkey::{ForKeys, Subkey, Use};
use sha2::{Digest, Sha256, Sha512};

/// The length of every digest here.
pub const DIGEST_LEN: usize = 32;

/// The length of a SHA-512.
pub const SHA512_LEN: usize = 64;

/// The SHA-512 of a key.
pub fn sha512(key: &[u8]) -> [u8; SHA512_LEN] {
    Sha512::digest(key).into()
}

/// The SHA-256 of a whole key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest(pub [u8; DIGEST_LEN]);

impl KeyDigest {
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        KeyDigest(Sha256::digest(key).into())
    }

    /// The key digest of a key that another system stored as its SHA-512. No text is hashed to it: the
    /// prefix has a NUL.
    pub fn of_sha512(sha512: &[u8; SHA512_LEN]) -> Self {
        KeyDigest(
            Sha256::new()
                .chain_update(b"keysmith.sha512.v1\0")
                .chain_update(sha512)
                .finalize()
                .into(),
        )
    }

    /// A key digest that the caller computed.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(KeyDigest)
    }

    /// The stored digest if no pepper is configured (generation 0).
    #[inline]
    pub fn stored(&self) -> [u8; DIGEST_LEN] {
        Sha256::new().chain_update(ForKeys::DOMAIN).chain_update(self.0).finalize().into()
    }

    /// The stored digest under a pepper.
    #[inline]
    pub fn stored_with(&self, subkey: &Subkey<ForKeys>) -> [u8; DIGEST_LEN] {
        subkey.mac(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::subkey::Subkeys;

    // Digests outlive releases: databases hold these values.
    #[test]
    fn the_stored_forms_are_stable() {
        let digest = KeyDigest::of(b"abc");
        assert_eq!(
            hex::encode(digest.0),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // sha256("keysmith.key.v1" || NUL || sha256("abc")), computed elsewhere.
        assert_eq!(
            hex::encode(digest.stored()),
            "49ab69f53ada54628796389e5a2c22fab331f6e6c5fef674c3317f7c8c977954"
        );
        // HMAC-SHA-256 of sha256("abc") under the subkey "keysmith/key/1", computed elsewhere.
        assert_eq!(
            hex::encode(digest.stored_with(Use::subkey(&Subkeys::of(&[1; 32])))),
            "59dd847c155be5bee10be5c7880a0255ba9a3ebcee368f090c585f52ce714e87"
        );
    }

    #[test]
    fn each_pepper_stores_another_digest() {
        let digest = KeyDigest::of(b"abc");
        let one = digest.stored_with(Use::subkey(&Subkeys::of(&[1; 32])));
        let two = digest.stored_with(Use::subkey(&Subkeys::of(&[2; 32])));
        assert_ne!(one, two);
        assert_ne!(one, digest.stored());
    }

    #[test]
    fn only_32_bytes_are_a_digest() {
        assert!(KeyDigest::from_slice(&[0; 31]).is_none());
        assert!(KeyDigest::from_slice(&[0; 33]).is_none());
        assert!(KeyDigest::from_slice(&[0; 32]).is_some());
    }
}
