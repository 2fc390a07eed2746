//! Attacks: texts that nobody but us can sign, and texts that were signed with our key and say
//! something that we would not say.

use super::*;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use proptest::prelude::*;
use sha2::Sha256;

/// The key that signs tokens of the default keyspace: somebody else has the file too.
fn stolen() -> SigningKey {
    let mut seed = [0; 32];
    let secret = Hkdf::<Sha256>::new(None, &[0x11; 32]);
    secret.expand(b"keysmith/token/1\0default", &mut seed).unwrap();
    SigningKey::from_bytes(&seed)
}

fn header() -> String {
    let kid = keys().newest().unwrap().kid.clone();
    format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#)
}

/// A token with a good signature over whatever it says.
fn forged(header: &str, claims: impl AsRef<[u8]>) -> String {
    let content = format!("{}.{}", encoded(header), encoded(claims));
    let signature = encoded(stolen().sign(content.as_bytes()).to_bytes());
    format!("{content}.{signature}")
}

#[test]
fn forging_with_the_secret_works_here() {
    assert_eq!(forged(&header(), claims()), good());
}

#[test]
fn no_other_header_is_accepted() {
    let (ours, kid) = (header(), keys().newest().unwrap().kid.clone());
    let with = |more: &str| ours.replace('}', &format!(",{more}}}"));
    for header in [
        ours.replace("EdDSA", "none"),
        ours.replace("EdDSA", "HS256"),
        ours.replace("EdDSA", "Ed25519"),
        ours.replace("EdDSA", "eddsa"),
        ours.replace(r#""alg":"EdDSA","#, ""),
        ours.replace(r#""EdDSA""#, "null"),
        with(r#""crit":["exp"]"#),
        with(r#""crit":[]"#),
        with(r#""b64":false"#),
        with(r#""zip":"DEF""#),
        with(r#""cty":"JWT""#),
        with(r#""jku":"https://example.com/keys""#),
        with(r#""jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#),
        with(r#""x5u":"https://example.com""#),
        // Twice.
        with(r#""alg":"none""#),
        with(r#""typ":"at+jwt""#),
        with(&format!(r#""kid":"{kid}""#)),
        with(r#""\u0061lg":"none""#),
        with(r#""typ":"JWT""#),
        // White space, order, escapes.
        format!("{ours}\n"),
        ours.replace(':', ": "),
        ours.replace("alg", r"\u0061lg"),
        format!(r#"{{"typ":"at+jwt","alg":"EdDSA","kid":"{kid}"}}"#),
    ] {
        let checked = check(&keys(), &forged(&header, claims()));
        assert_eq!(checked, Some(Err(Invalid::Header)), "{header}");
    }
}

#[test]
fn a_public_key_is_no_secret_of_another_algorithm() {
    let public = stolen().verifying_key();
    let jwk = keys().jwks()["keys"][0].to_string();
    let content = format!(
        "{}.{}",
        encoded(header().replace("EdDSA", "HS256")),
        good().split('.').nth(1).unwrap()
    );
    for secret in [&public.as_bytes()[..], jwk.as_bytes(), encoded(public).as_bytes()] {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).unwrap();
        let mac = mac.chain_update(&content).finalize().into_bytes();
        let text = format!("{content}.{}", encoded(mac));
        assert_eq!(check(&keys(), &text), Some(Err(Invalid::Header)));
    }
    let unsigned = encoded(header().replace("EdDSA", "none"));
    for end in [".", ".AAAA", ""] {
        let text = format!("{unsigned}.{}{end}", good().split('.').nth(1).unwrap());
        assert_eq!(check(&keys(), &text), Some(Err(Invalid::Header)));
    }
}

#[test]
fn tokens_of_others_are_ordinary_keys() {
    let kid = keys().newest().unwrap().kid.clone();
    for header in [
        header().replace("at+jwt", "JWT"),
        header().replace(r#""typ":"at+jwt","#, ""),
        header().replace(&*kid, "other"),
        header().replace(&format!(r#","kid":"{kid}""#), ""),
        r#"{"alg":"none"}"#.into(),
        "{}".into(),
        "{".into(),
        format!(" {}", header()),
        format!("[{}]", header()),
        format!("{}{}", header(), " ".repeat(1000)),
    ] {
        assert_eq!(check(&keys(), &forged(&header, claims())), None, "{header}");
    }
    let good = good();
    for other in ["", "e", "ey.", "eyJ9", "ks_live_abc", &good[1..], &format!(" {good}"), "e.e.e"] {
        assert_eq!(check(&keys(), other), None, "{other}");
    }
    assert_eq!(check(&TokenKeys::default(), &good), None);
}

#[test]
fn a_kid_names_one_keyspace_and_one_generation() {
    let both = secrets(&[1, 2]);
    let (old, now) = (secrets(&[1]).of_keyspace("default"), both.of_keyspace("default"));
    let [by_old, by_new] = [&old, &now].map(|keys| signed(&new(), keys).unwrap());
    let other = both.of_keyspace("other");
    let gone = secrets(&[2]).of_keyspace("default");
    for (token, by_first, by_second) in [(&by_old, true, false), (&by_new, false, true)] {
        let token = check(&now, token).unwrap().unwrap();
        let signed = [&now, &old, &gone, &other].map(|keys| token.is_signed_by(keys));
        assert_eq!(signed, [true, by_first, by_second, false]);
    }
    for (keys, token) in [(&old, &by_new), (&other, &by_old), (&other, &by_new), (&gone, &by_old)] {
        assert!(matches!(recognize(keys, token.as_bytes()), Recognized::UnknownKid));
    }
    // The other keyspace's `kid` over this keyspace's signature.
    let kid = &other.iter().last().unwrap().kid;
    let mixed = forged(&header().replace(&*old.newest().unwrap().kid, kid), claims());
    assert_eq!(check(&other, &mixed), Some(Err(Invalid::Signature)));
}

#[test]
fn other_forms_of_the_same_bytes_are_refused() {
    let good = good();
    let [header, claims, signature] =
        <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let padded = URL_SAFE.encode(URL_SAFE_NO_PAD.decode(signature).unwrap());
    let plain = STANDARD_NO_PAD.encode(URL_SAFE_NO_PAD.decode(signature).unwrap());
    assert!(padded.ends_with("==") && plain != signature);
    for text in [
        format!("{header}.{claims}"),
        format!("{header}."),
        format!("{header}.."),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.{signature}."),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{padded}"),
        format!("{header}.{claims}.{plain}"),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.{signature} "),
        format!("{header}.{claims}.{signature}\n"),
        format!("{header}.{claims}.{signature}A"),
        format!("{header}.{claims}. {signature}"),
        format!("{header}.{claims}.{}", &signature[1..]),
        format!("{header}.{claims}.{}", encoded([])),
        format!("{header}.{claims}.é"),
        format!("{header}.{claims}.{}", trailing_bits(signature)),
    ] {
        assert_eq!(check(&keys(), &text), Some(Err(Invalid::Form)), "{text}");
    }
    for claims in ["", &format!("{claims}="), &format!("{claims} "), &claims[1..]] {
        let text = format!("{header}.{claims}.{signature}");
        assert_eq!(check(&keys(), &text), Some(Err(Invalid::Signature)), "{text}");
    }
}

#[test]
fn claims_in_another_form_are_refused_even_if_they_are_signed() {
    let content = |claims: &str| {
        let content = format!("{}.{claims}", encoded(header()));
        format!("{content}.{}", encoded(stolen().sign(content.as_bytes()).to_bytes()))
    };
    let ours = encoded(claims());
    assert!(check(&keys(), &content(&ours)).unwrap().is_ok());
    let with_trailing_bits = trailing_bits(&encoded("{}"));
    for bad in [format!("{ours}="), format!("{ours}\n"), with_trailing_bits] {
        assert_eq!(check(&keys(), &content(&bad)), Some(Err(Invalid::Form)), "{bad}");
    }
}

#[test]
fn a_signature_plus_the_order_is_another_signature() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let good = good();
    let (content, signature) = good.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    let text = format!("{content}.{}", encoded(signature));
    assert_eq!(check(&keys(), &text), Some(Err(Invalid::Signature)));
}

#[test]
fn signed_claims_that_we_would_not_write_are_refused() {
    let ours = claims();
    let set = |name: &str, value: &str| {
        let mut claims: Map<String, Value> = serde_json::from_str(&ours).unwrap();
        // Printed as it stands, whatever the number is.
        claims.insert(name.into(), "HERE".into());
        serde_json::to_string(&claims).unwrap().replace("\"HERE\"", value)
    };
    let without = |name: &str| {
        let mut claims: Map<String, Value> = serde_json::from_str(&ours).unwrap();
        assert!(claims.remove(name).is_some(), "{name}");
        serde_json::to_string(&claims).unwrap()
    };
    let with = |more: &str| ours.replacen('{', &format!("{{{more},"), 1);
    assert_eq!(forged(&header(), set("exp", &(NOW_SECOND + 900).to_string())), good());
    let required = ["iss", "aud", "sub", "client_id", "jti", "iat", "exp", "scope"];
    let mut bad: Vec<String> = required.iter().map(|name| without(name)).collect();
    for name in required {
        bad.extend(["null", "true", "{}", "[[]]", "[1]"].map(|value| set(name, value)));
    }
    for name in ["iat", "exp"] {
        bad.extend(
            [
                "-1",
                "1.0",
                "1893456900.5",
                "1e9",
                "1E9",
                "\"1893456900\"",
                "253402300800",
                "9223372036854775807",
                "9223372036854775808",
                "18446744073709551616",
                "1e400",
                "-0",
                "01",
                "NaN",
                "Infinity",
                "99999999999999999999999999999999999999999999",
            ]
            .map(|value| set(name, value)),
        );
    }
    let upper = format!("\"{}\"", KEY_ID.to_uppercase());
    bad.extend([
        set("jti", "\"\""),
        set("jti", &upper),
        set("client_id", "\"017f22e2-79b0-7cc3-98c4-dc0c0c073990\""),
        set("sub", "\"acme\""),
        set("scope", "\" \""),
        set("scope", "\"a  b\""),
        set("scope", "\"a b \""),
        set("scope", "\"a\\tb\""),
        set("scope", "[\"a\"]"),
        set("aud", "[null]"),
        set("allowlist", "null"),
        set("allowlist", "\"192.0.2.0/24\""),
        set("allowlist", "[\"192.0.2.0\"]"),
        set("allowlist", "[\"192.0.2.0/33\"]"),
        set("allowlist", "[\"example.com\"]"),
        // Twice: in each order, and in other words.
        with(r#""exp":1893456900"#),
        with(r#""exp":4102444800"#),
        with(r#""scope":"*""#),
        with(r#""\u0065xp":4102444800"#),
        with(r#""a":1,"a":1"#),
        with(r#""a":{"b":1,"b":2}"#),
        ours.replace("\"exp\"", r#""\u0065xp""#),
        ours.replace("images", r"im\u0061ges"),
        ours.replace("https://", r"https:\/\/"),
        format!(" {ours}"),
        format!("{ours}\n"),
        format!("{ours}{ours}"),
        format!("\u{feff}{ours}"),
        ours.replace(':', ": "),
        format!("[{ours}]"),
        "\"text\"".into(),
        "null".into(),
        "{}".into(),
        "{".into(),
        String::new(),
        with(&format!("\"a\":{}{}", "[".repeat(200), "]".repeat(200))),
        with(&format!("\"a\":{}", "[".repeat(2000))),
    ]);
    for claims in bad {
        assert_eq!(
            check(&keys(), &forged(&header(), &claims)),
            Some(Err(Invalid::Claims)),
            "{claims}"
        );
    }
    let mut bytes = ours.into_bytes();
    let at = bytes.windows(4).position(|part| part == b"acme").unwrap();
    bytes[at] = 0xff;
    assert_eq!(check(&keys(), &forged(&header(), bytes)), Some(Err(Invalid::Claims)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let good = good();
        let mut changed: Vec<char> = good.chars().collect();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != to);
        changed[at] = to;
        let changed: String = changed.into_iter().collect();
        prop_assert!(!matches!(check(&keys(), &changed), Some(Ok(_))));
    }

    #[test]
    fn any_bytes_at_all_are_taken_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), with_header in any::<bool>(),
    ) {
        let start = if with_header { encoded(header()) + "." } else { "e".into() };
        let text = [start.as_bytes(), &bytes].concat();
        if let Recognized::Token(presented) = recognize(&keys(), &text) {
            prop_assert!(presented.verify().is_err());
        }
    }
}
