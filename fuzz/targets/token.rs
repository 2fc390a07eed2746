//! Tokens: any text as one that a caller presents, and as the claims of one that we have signed.
//! A token that is accepted must be read the same again, and end.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use keysmith_core::token::keys::{SigningSecrets, TokenKeys};
use keysmith_core::token::remembered::Remembered;
use keysmith_core::token::verify::{Recognized, recognize};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use std::sync::LazyLock;

static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| {
    let text = format!("1:{}", "11".repeat(32));
    SigningSecrets::parse(&text).expect("it has the form").of_keyspace("default")
});

/// The same key, to sign whatever claims there are.
static SIGNER: LazyLock<SigningKey> = LazyLock::new(|| {
    let mut seed = [0; 32];
    let secret = Hkdf::<Sha256>::new(None, &[0x11; 32]);
    secret.expand(b"keysmith/token/1\0default", &mut seed).expect("32 bytes");
    SigningKey::from_bytes(&seed)
});

fuzz_target!(|data: &[u8]| {
    // As it stands: nobody else can sign.
    if let Recognized::Token(presented) = recognize(&KEYS, data) {
        assert!(presented.verify().is_err(), "a forged token");
    }
    let kid = &KEYS.newest().expect("there is a secret").kid;
    let header = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#);
    signed(&header, data);
    // As a header, in place of the mark the `kid`.
    let header = String::from_utf8_lossy(data).replace("KID", kid);
    if header != format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#) {
        assert!(!signed(&header, b"{}"), "another header");
    }
});

/// Whether a token with a good signature is accepted.
fn signed(header: &str, claims: &[u8]) -> bool {
    let content = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(SIGNER.sign(content.as_bytes()).to_bytes());
    let text = format!("{content}.{signature}");
    let Recognized::Token(presented) = recognize(&KEYS, text.as_bytes()) else { return false };
    let mut remembered = Remembered::default();
    let first = remembered.verify(&presented);
    assert_eq!(first, remembered.verify(&presented), "a remembered token differs");
    let Ok(token) = first else { return false };
    let claims = std::str::from_utf8(claims).expect("claims are UTF-8");
    assert!(claims.starts_with('{') && claims.contains("\"exp\":"));
    for moment in [i64::MIN, token.issued_at, token.expires_at, i64::MAX] {
        let refused = token.refused("https://api.example.com", moment);
        assert!(moment < token.expires_at || refused.is_some(), "good after its end");
    }
    true
}
