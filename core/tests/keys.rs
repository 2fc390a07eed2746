//! Properties of keys: every minted key parses, and nothing near one does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use keysmith_core::key::format::{self, ALPHABET, BODY_LEN, SECRET_LEN};
use keysmith_core::key::secret::generate;
use proptest::prelude::*;
use std::collections::HashSet;

fn prefix() -> impl Strategy<Value = String> {
    "[a-z0-9_]{1,31}_"
}

/// A minted key, and the check that it is one.
fn minted(prefix: &str) -> String {
    let key = generate(prefix).unwrap();
    let parts = format::parse(key.as_bytes()).expect("a minted key parses");
    assert_eq!(parts.prefix, prefix);
    assert_eq!(format!("{}{}{}", parts.prefix, parts.secret, parts.checksum), key);
    key
}

fn assert_refused(changed: &[u8], original: &str) {
    if changed != original.as_bytes() {
        assert!(!format::is_well_formed(changed), "{}", String::from_utf8_lossy(changed));
        assert!(format::parse(changed).is_none());
    }
}

proptest! {
    #[test]
    fn any_single_character_change_is_refused(prefix in prefix()) {
        let key = minted(&prefix);
        let mut changed = key.clone().into_bytes();
        for at in 0..changed.len() {
            let was = changed[at];
            for byte in 0..=u8::MAX {
                changed[at] = byte;
                assert_refused(&changed, &key);
            }
            changed[at] = was;
        }
    }

    #[test]
    fn any_swap_of_neighbours_is_refused(prefix in prefix()) {
        let key = minted(&prefix);
        for at in 1..key.len() {
            let mut changed = key.clone().into_bytes();
            changed.swap(at - 1, at);
            assert_refused(&changed, &key);
        }
    }

    #[test]
    fn truncations_are_refused(prefix in prefix()) {
        let key = minted(&prefix);
        for len in 0..key.len() {
            assert_refused(&key.as_bytes()[..len], &key);
            assert_refused(&key.as_bytes()[key.len() - len..], &key);
        }
    }

    #[test]
    fn extensions_are_refused(prefix in prefix(), more in proptest::collection::vec(any::<u8>(), 1..80)) {
        let key = minted(&prefix);
        assert_refused(&[key.as_bytes(), &more].concat(), &key);
        assert_refused(&[&more, key.as_bytes()].concat(), &key);
    }

    #[test]
    fn any_bytes_at_all_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_eq!(format::parse(&bytes).is_some(), format::is_well_formed(&bytes));
    }
}

#[test]
fn a_million_keys_are_distinct_and_uniform() {
    const KEYS: usize = 1_000_000;
    let mut seen = HashSet::with_capacity(KEYS);
    let mut counts = vec![[0u32; 62]; SECRET_LEN];
    for _ in 0..KEYS {
        let key = generate("k_").unwrap();
        let secret = &key.as_bytes()[key.len() - BODY_LEN..][..SECRET_LEN];
        for (position, byte) in secret.iter().enumerate() {
            let digit = ALPHABET.binary_search(byte).unwrap();
            counts[position][digit] += 1;
        }
        assert!(seen.insert(key), "two equal keys");
    }
    // Chi-squared with 61 degrees of freedom: above 150 once in about 10^9 tries,
    // while a plain `byte % 62` (five characters in four times as often as the
    // others) would give many thousands.
    let expected = KEYS as f64 / 62.0;
    for (position, digits) in counts.iter().enumerate() {
        let chi: f64 = digits.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert!(chi < 150.0, "position {position}: chi-squared {chi}");
    }
}
