//! The keys that sign tokens, and their public halves.
//!
//! The file of signing secrets has the form of a [secret file](crate::key::secret_file). Each
//! keyspace has one Ed25519 key in each generation. The seed is HKDF-SHA-256
//! (RFC 5869) of the secret, without a salt, with a label and the keyspace's name as the info. So
//! a token of one keyspace is signed with a key that no other keyspace has.
//!
//! The newest generation signs. The others still check tokens: a line may go when the last token
//! that it signed has expired.

use crate::key::secret_file::SecretFile;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{SECRET_KEY_LENGTH, Signature, Signer, SigningKey};
use hkdf::Hkdf;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The keyspace's name follows it.
const LABEL: &[u8] = b"keysmith/token/1\0";

/// The `typ` of our tokens.
pub const TYPE: &str = "at+jwt";

/// The header of our tokens, up to the `kid`.
const HEADER_START: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":""#;
const HEADER_END: &str = r#""}"#;

/// The length of what HKDF extracts: that of a SHA-256.
const SECRET_LEN: usize = 32;

/// The length of a `kid`: a SHA-256 in base64url.
const KID_LEN: usize = 43;

/// The secrets of all generations. Only what HKDF extracts from them is kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SigningSecrets {
    newest_first: Vec<(i16, [u8; SECRET_LEN])>,
}

impl SigningSecrets {
    /// Reads the text of the file. The error names the line and never shows its content.
    pub fn parse(text: &str) -> Result<SigningSecrets, String> {
        let file = SecretFile::parse(text, "the secret", None)?;
        let extracted = |(generation, secret): &(i16, Vec<u8>)| {
            (*generation, Hkdf::<Sha256>::extract(None, secret).0.into())
        };
        Ok(SigningSecrets { newest_first: file.newest_first.iter().map(extracted).collect() })
    }

    /// The generations that have a secret, the newest first.
    pub fn generations(&self) -> impl Iterator<Item = i16> + '_ {
        self.newest_first.iter().map(|(generation, _)| *generation)
    }

    /// The keys of a keyspace. Each takes about as long as a signature.
    pub fn of_keyspace(&self, keyspace: &str) -> TokenKeys {
        let key = |(generation, secret): &(i16, [u8; SECRET_LEN])| {
            let mut seed = [0; SECRET_KEY_LENGTH];
            let secret = Hkdf::<Sha256>::from_prk(secret)
                .unwrap_or_else(|_| unreachable!("it has the length of a SHA-256"));
            let length = secret.expand_multi_info(&[LABEL, keyspace.as_bytes()], &mut seed);
            length.unwrap_or_else(|_| unreachable!("HKDF gives up to 8160 bytes"));
            TokenKey::new(*generation, &seed)
        };
        TokenKeys { newest_first: self.newest_first.iter().map(key).collect() }
    }
}

/// The keys of a keyspace, one a generation.
#[derive(Clone, Default)]
pub struct TokenKeys {
    newest_first: Vec<TokenKey>,
}

impl TokenKeys {
    /// The key that signs. `None` if there are no signing secrets.
    pub fn newest(&self) -> Option<&TokenKey> {
        self.newest_first.first()
    }

    pub fn iter(&self) -> impl Iterator<Item = &TokenKey> {
        self.newest_first.iter()
    }

    /// The public keys as a JWK set (RFC 7517), the newest first.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.iter().map(TokenKey::jwk).collect::<Vec<_>>()})
    }
}

/// A key of a keyspace.
#[derive(Clone)]
pub struct TokenKey {
    pub generation: i16,
    /// The thumbprint of the public key (RFC 7638). So it names a generation of a keyspace, and
    /// never two.
    pub kid: Box<str>,
    /// The header of the tokens that it signs, as they begin: with the dot.
    pub(super) header: Box<[u8]>,
    key: SigningKey,
}

impl TokenKey {
    fn new(generation: i16, seed: &[u8; SECRET_KEY_LENGTH]) -> TokenKey {
        let key = SigningKey::from_bytes(seed);
        let kid = thumbprint(&public(&key));
        let header = [HEADER_START, &kid, HEADER_END].concat();
        let header = URL_SAFE_NO_PAD.encode(header) + ".";
        TokenKey { generation, kid: kid.into(), header: header.into_bytes().into(), key }
    }

    pub(super) fn sign(&self, content: &[u8]) -> [u8; Signature::BYTE_SIZE] {
        self.key.sign(content).to_bytes()
    }

    /// Whether a signature is that of this key. Signatures that other libraries judge differently
    /// are refused.
    pub(super) fn has_signed(&self, content: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .and_then(|signature| self.key.verifying_key().verify_strict(content, &signature))
            .is_ok()
    }

    /// The public key as a JWK (RFC 8037).
    fn jwk(&self) -> Value {
        json!({
            "kty": "OKP", "crv": "Ed25519", "x": public(&self.key), "kid": self.kid, "use": "sig",
            "alg": "EdDSA",
        })
    }
}

/// Whether a header of the form that ours have names a `kid`, known or not.
pub(super) fn is_header(json: &[u8]) -> bool {
    json.strip_prefix(HEADER_START.as_bytes())
        .and_then(|rest| rest.strip_suffix(HEADER_END.as_bytes()))
        .is_some_and(|kid| kid.len() == KID_LEN && !kid.contains(&b'"'))
}

fn public(key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes())
}

fn thumbprint(public: &str) -> String {
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::subkey;
    use std::collections::HashSet;

    fn secrets(generations: &[i16]) -> SigningSecrets {
        let line =
            |generation: &i16| format!("{generation}:{}\n", format!("{generation:02}").repeat(32));
        SigningSecrets::parse(&generations.iter().map(line).collect::<String>()).unwrap()
    }

    /// The example of RFC 8037, appendix A.
    #[test]
    fn the_key_of_the_rfc() {
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = TokenKey::new(1, &seed.unwrap().try_into().unwrap());
        assert_eq!(public(&key.key), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(&*key.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let content = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = key.sign(content);
        assert_eq!(
            URL_SAFE_NO_PAD.encode(signature),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        );
        assert!(key.has_signed(content, &signature));
        assert!(!key.has_signed(b"other", &signature) && !key.has_signed(content, b"short"));
    }

    // Tokens and JWK sets outlive releases. Computed by Python's cryptography.
    #[test]
    fn the_derived_keys_are_stable() {
        let text = format!("1:{}", "11".repeat(32));
        let jwks = SigningSecrets::parse(&text).unwrap().of_keyspace("default").jwks();
        assert_eq!(
            jwks,
            json!({"keys": [{
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
                "x": "2aaf3Nn-aJ2gvV1drLbicjSH3hOy8wMzCB8CFlVfiFI",
                "kid": "T0XoWT3dtCAaYfrU3lp_3AbxuCHp8WnR6WhwMXv21uw",
            }]})
        );
    }

    #[test]
    fn generations_and_keyspaces_have_keys_of_their_own() {
        let secrets = secrets(&[1, 3, 2]);
        assert!(secrets.generations().eq([3, 2, 1]));
        let mut kids = HashSet::new();
        for keyspace in ["default", "defaul", "default2", ""] {
            let keys = secrets.of_keyspace(keyspace);
            assert_eq!(keys.newest().map(|key| key.generation), Some(3));
            assert_eq!(keys.jwks()["keys"][2]["kid"], *keys.newest_first[2].kid);
            kids.extend(keys.iter().map(|key| key.kid.clone()));
        }
        assert_eq!(kids.len(), 12);
        let none = SigningSecrets::default().of_keyspace("default");
        assert!(none.newest().is_none() && none.jwks() == json!({"keys": []}));
    }

    #[test]
    fn a_public_key_shows_nothing_of_the_secret() {
        let key = secrets(&[1]).of_keyspace("default").newest_first.remove(0);
        let jwks = TokenKeys { newest_first: vec![key.clone()] }.jwks().to_string();
        assert!(!jwks.contains("\"d\""));
        assert!(!jwks.contains(&URL_SAFE_NO_PAD.encode(key.key.to_bytes())));
    }

    #[test]
    fn no_pepper_has_this_label() {
        assert!(subkey::LABELS.iter().all(|label| !LABEL.starts_with(label.as_bytes())));
    }

    #[test]
    fn headers() {
        let key = secrets(&[1]).of_keyspace("default").newest_first.remove(0);
        let json = URL_SAFE_NO_PAD.decode(key.header.strip_suffix(b".").unwrap()).unwrap();
        assert!(is_header(&json) && key.kid.len() == KID_LEN);
        let text = String::from_utf8(json).unwrap();
        assert!(text.contains(&format!(r#""typ":"{TYPE}""#)), "{text}");
        for bad in [
            text.replace("EdDSA", "none"),
            text.replace("at+jwt", "JWT"),
            text.replace(&*key.kid, "short"),
            text.replace(&key.kid[..9], r#"","a":"b""#),
            text.replace('}', "} "),
        ] {
            assert!(bad != text && !is_header(bad.as_bytes()), "{bad}");
        }
    }
}
