//! Tokens that we make: their form, what they say, and how long they are good.

use super::*;
use keysmith_core::policy::allowlist::IpNet;
use keysmith_core::token::remembered::Remembered;
use keysmith_core::token::verify::Refused;
use keysmith_core::token::{LEEWAY, MAX_TOKEN_LEN};
use proptest::prelude::*;
use serde_json::json;

// Made by Python's cryptography. Other systems read these tokens, so their form is stable.
#[test]
fn the_form_is_stable() {
    let claims = json!({"plan": "pro"});
    let key_id = id(KEY_ID);
    let networks: [IpNet; 1] = ["192.0.2.0/24".parse().unwrap()];
    let token_id = id("017f22e2-79b1-7000-8000-000000000001");
    let new = NewToken {
        allowlist: Some(&networks),
        token_id: &token_id,
        claims: claims.as_object().unwrap(),
        ..new()
    };
    let signed = new.sign(keys().newest().unwrap()).ok().unwrap();
    assert_eq!(signed.expires_at, NOW + 900 * SECOND);
    assert_eq!(
        signed.token,
        concat!(
            "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCIsImtpZCI6IlQwWG9XVDNkdENBYVlmclUzbHBfM0FieHVDSHA4",
            "V25SNldod01YdjIxdXcifQ.eyJhbGxvd2xpc3QiOlsiMTkyLjAuMi4wLzI0Il0sImF1ZCI6Imh0dHBzOi8vYXBpL",
            "mV4YW1wbGUuY29tIiwiY2xpZW50X2lkIjoiMDE3ZjIyZTItNzliMC03Y2MzLTk4YzQtZGMwYzBjMDczOThmIiwiZ",
            "W52aXJvbm1lbnQiOiJsaXZlIiwiZXhwIjoxODkzNDU2OTAwLCJpYXQiOjE4OTM0NTYwMDAsImlzcyI6Imh0dHBzO",
            "i8vYXBpLmV4YW1wbGUuY29tIiwianRpIjoiMDE3ZjIyZTItNzliMS03MDAwLTgwMDAtMDAwMDAwMDAwMDAxIiwic",
            "GxhbiI6InBybyIsInNjb3BlIjoiaW1hZ2VzOnJlYWQgaW1hZ2VzOndyaXRlIiwic3ViIjoiMDE3ZjIyZTItNzliM",
            "C03Y2MzLTk4YzQtZGMwYzBjMDczOThmIiwidGVuYW50IjoiYWNtZSJ9.y3F8hvnmn2e2VhQXkUgYbf43hfBdupsL",
            "YO1W62TsObSZRdEOjZkcnJW38m5DL1HRBbmMMVOgdNsNrj_j9c6cAA"
        )
    );
    let token = verified(&signed.token);
    assert_eq!((token.key_id, token.token_id), (key_id, token_id));
    assert!(token.is_signed_by(&keys()));
    assert_eq!((token.issued_at, token.expires_at), (NOW, NOW + 900 * SECOND));
    assert_eq!(token.allowlist(), Some(&networks[..]));
    assert!(token.scopes().iter().eq([&b"images:read"[..], b"images:write"]));
    assert_eq!(token.refused(ISSUER, NOW), None);
}

#[test]
fn a_token_is_for_its_issuer_and_its_audience() {
    let refused = |audience: &[&str], issuer: &str| {
        let new = NewToken { audience, ..new() };
        verified(&signed(&new, &keys()).unwrap()).refused(issuer, NOW)
    };
    for good in [&[][..], &[ISSUER], &["https://other", ISSUER]] {
        assert_eq!(refused(good, ISSUER), None, "{good:?}");
    }
    let longer = format!("{ISSUER}/");
    for bad in [&["https://other"][..], &[&longer], &["", "https://API.example.com"]] {
        assert_eq!(refused(bad, ISSUER), Some(Refused::Invalid(Invalid::Audience)), "{bad:?}");
    }
    // The keyspace has another issuer now.
    for issuer in ["", "https://api.example.co", &longer, "HTTPS://api.example.com"] {
        assert_eq!(refused(&[issuer], issuer), Some(Refused::Invalid(Invalid::Issuer)));
    }
}

fn until(issued_at: i64, expires_at: i64) -> Result<String, Unfit> {
    signed(&NewToken { issued_at, expires_at, ..new() }, &keys())
}

#[test]
fn a_token_ends_with_the_second_of_its_expiry() {
    let refused = |token: &Token, now| token.refused(ISSUER, now);
    let token = until(NOW, NOW + 900 * SECOND + 999_999).map(|text| verified(&text)).unwrap();
    let end = NOW + 900 * SECOND;
    assert_eq!(token.expires_at, end);
    assert_eq!(refused(&token, end - 1), None);
    for late in [end, end + 1, i64::MAX] {
        assert_eq!(refused(&token, late), Some(Refused::Expired), "{late}");
    }
    let ahead = Some(Refused::Invalid(Invalid::IssuedAhead));
    assert_eq!(refused(&token, NOW - LEEWAY), None);
    for early in [NOW - LEEWAY - 1, 0, i64::MIN] {
        assert_eq!(refused(&token, early), ahead, "{early}");
    }
    // It was issued in the part of a second before.
    let token = until(NOW + 999_999, NOW + 5 * SECOND).map(|text| verified(&text)).unwrap();
    assert_eq!((token.issued_at, refused(&token, NOW)), (NOW, None));
}

#[test]
fn a_life_has_at_least_a_second_and_an_end() {
    for (from, to) in [
        (NOW, NOW),
        (NOW + 1, NOW + SECOND - 1),
        (NOW, NOW - SECOND),
        (NOW, i64::MAX),
        (i64::MIN, NOW),
    ] {
        assert_eq!(until(from, to), Err(Unfit::NoLife), "{from} {to}");
    }
    assert!(until(NOW, NOW + SECOND).is_ok());
}

#[test]
fn callers_cant_set_claims_that_decide() {
    let signed =
        |claims: Value| signed(&NewToken { claims: claims.as_object().unwrap(), ..new() }, &keys());
    let written: Map<String, Value> = serde_json::from_str(&claims()).unwrap();
    // Some readers don't tell the case of names.
    let others = [
        "allowlist",
        "nbf",
        "act",
        "may_act",
        "cnf",
        "roles",
        "groups",
        "azp",
        "Exp",
        "SCOPE",
        "\u{17f}ub",
        "i\u{17f}s",
        "\u{17f}cope",
        "allowli\u{17f}t",
    ];
    for name in written.keys().map(String::as_str).chain(others) {
        assert_eq!(signed(json!({"a": 1, name: null})), Err(Unfit::Reserved(name.into())));
    }
    let own = json!({
        "expires": 1, "exp ": 2, "plan": "pro", "n": 0.1, "big": u64::MAX, "low": i64::MIN, "tiny": 5e-324,
        "é\u{1f511}\"\\\u{1}\u{2028}": [null, true, {"iss": "inner"}],
    });
    assert!(check(&keys(), &signed(own).unwrap()).unwrap().is_ok());
    let nested =
        |levels: usize| json!({"a": (1..levels).fold(json!(1), |inner, _| json!([inner]))});
    assert!(check(&keys(), &signed(nested(32)).unwrap()).unwrap().is_ok());
    assert_eq!(signed(nested(33)), Err(Unfit::TooDeep));
}

#[test]
fn a_token_has_a_greatest_length() {
    let of_length =
        |length: usize| signed(&NewToken { tenant: &"x".repeat(length), ..new() }, &keys());
    let most = (0..MAX_TOKEN_LEN).rev().find_map(|length| of_length(length).ok()).unwrap();
    assert!(most.len() <= MAX_TOKEN_LEN && most.len() > MAX_TOKEN_LEN - 4);
    assert!(check(&keys(), &most).unwrap().is_ok());
    assert_eq!(of_length(MAX_TOKEN_LEN), Err(Unfit::TooLong));
}

#[test]
fn remembered_tokens_are_the_same_tokens() {
    let keys = secrets(&[1, 2]).of_keyspace("default");
    let mut remembered = Remembered::default();
    let mut verify = |keys: &TokenKeys, text: &str| match recognize(keys, text.as_bytes()) {
        Recognized::Token(presented) => Some(remembered.verify(&presented)),
        _ => None,
    };
    let token = signed(&new(), &keys).unwrap();
    let first = verify(&keys, &token).unwrap().unwrap();
    let again = verify(&keys, &token).unwrap().unwrap();
    assert!(std::rc::Rc::ptr_eq(&first, &again));
    // A text that differs is checked itself, each time.
    let mistyped = trailing_bits(&token);
    let (content, _) = token.rsplit_once('.').unwrap();
    let other = format!("{content}.{}", encoded([1; 64]));
    for _ in 0..2 {
        assert_eq!(verify(&keys, &mistyped), Some(Err(Invalid::Form)));
        assert_eq!(verify(&keys, &other), Some(Err(Invalid::Signature)));
    }
    // It is gone with its generation, and was never known elsewhere.
    assert_eq!(verify(&secrets(&[1]).of_keyspace("default"), &token), None);
    assert_eq!(verify(&secrets(&[1, 2]).of_keyspace("other"), &token), None);
    assert!(verify(&keys, &token).unwrap().is_ok());
}

fn grants() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z]{1,8}(:[a-z0-9_-]{1,8}){0,2}(:\\*)?|\\*", 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_signed_is_read(
        issuer in "\\PC{1,40}", audience in proptest::collection::vec("\\PC{0,20}", 0..3), ids in any::<[[u8; 16]; 2]>(),
        tenant in "\\PC{1,40}", scopes in grants(), network in proptest::option::of((any::<[u8; 4]>(), 0u8..=32)),
        from in 0i64..1 << 50, life in 1i64..1 << 30, claim in "\\PC{0,30}", number in any::<f64>(),
    ) {
        let keys = keys();
        let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let networks: Option<[IpNet; 1]> =
            network.map(|(address, bits)| [IpNet::new(address.into(), bits).unwrap()]);
        let own = json!({"claim": claim, "number": number});
        let new = NewToken {
            issuer: &issuer, audience: &audience, key_id: &ids[0], token_id: &ids[1], tenant: &tenant,
            environment: "live", scopes: &scopes, allowlist: networks.as_ref().map(|list| &list[..]),
            issued_at: from, expires_at: from + life * SECOND, claims: own.as_object().unwrap(),
        };
        let signed = new.sign(keys.newest().unwrap()).ok().unwrap();
        let token = check(&keys, &signed.token).unwrap().unwrap();
        prop_assert_eq!([token.key_id, token.token_id], ids);
        prop_assert!(token.scopes().iter().eq(scopes.iter().map(|scope| scope.as_bytes())));
        prop_assert_eq!(token.allowlist(), networks.as_ref().map(|list| &list[..]));
        prop_assert_eq!(token.expires_at, signed.expires_at);
        prop_assert!(token.expires_at <= new.expires_at);
        let is_for_issuer = audience.is_empty() || audience.contains(&&*issuer);
        prop_assert_eq!(token.refused(&issuer, from).is_none(), is_for_issuer);
    }
}
