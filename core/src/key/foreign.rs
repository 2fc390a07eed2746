//! Keys of other systems, which hashed a part of a key, or hashed it otherwise.

use super::digest::{KeyDigest, sha512};

/// How the keys of a keyspace may have been hashed, besides our own way.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Hashings {
    pub behind_bar: bool,
    pub last_part: bool,
    pub sha512: bool,
}

impl Hashings {
    /// All of them, for a key of an unknown keyspace.
    pub const ALL: Hashings = Hashings { behind_bar: true, last_part: true, sha512: true };

    /// Whether a key has more than one digest.
    #[inline]
    pub fn are_several(self) -> bool {
        self.last_part || self.sha512
    }

    /// The part of a key that is hashed first.
    #[inline]
    pub fn first_part(self, key: &[u8]) -> &[u8] {
        if self.behind_bar { behind_bar(key) } else { key }
    }

    /// The digests that a key may be stored by, in the order in which they are tried.
    pub fn digests(self, key: &[u8]) -> impl Iterator<Item = KeyDigest> {
        let last = Some(last_part(key)).filter(|last| self.last_part && last.len() < key.len());
        [
            Some(KeyDigest::of(self.first_part(key))),
            last.map(KeyDigest::of),
            self.sha512.then(|| KeyDigest::of_sha512(&sha512(key))),
        ]
        .into_iter()
        .flatten()
    }
}

/// The part of a key after its last `_` or `.`, where such systems have the secret. A key without one,
/// or with nothing after it, is taken as a whole.
pub fn last_part(key: &[u8]) -> &[u8] {
    match key.rsplit(|byte| matches!(byte, b'_' | b'.')).next() {
        Some(rest) if !rest.is_empty() => rest,
        _ => key,
    }
}

/// The part of a key that such a system hashed: the part after the first `|`. The number of a row
/// comes before it, and is no secret. A key without a bar, or with nothing after it, was hashed
/// as a whole.
#[inline]
pub fn behind_bar(key: &[u8]) -> &[u8] {
    let bar = key.iter().position(|byte| *byte == b'|');
    match bar.and_then(|bar| key.get(bar + 1..)) {
        Some(rest) if !rest.is_empty() => rest,
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_bar_divides() {
        for (key, hashed) in [
            ("17|abc", "abc"),
            ("17|a|bc", "a|bc"),
            ("|abc", "abc"),
            ("abc", "abc"),
            ("17|", "17|"),
            ("", ""),
            ("|", "|"),
        ] {
            assert_eq!(behind_bar(key.as_bytes()), hashed.as_bytes(), "{key}");
        }
    }

    #[test]
    fn the_last_separator_divides() {
        for (key, hashed) in [
            ("a_b.c", "c"),
            ("a.b_c", "c"),
            ("abc", "abc"),
            ("a_", "a_"),
            ("", ""),
            (".", "."),
            ("_x", "x"),
        ] {
            assert_eq!(last_part(key.as_bytes()), hashed.as_bytes(), "{key}");
        }
    }

    #[test]
    fn a_key_has_the_digests_that_may_be_stored() {
        let count = |hashings: Hashings, key: &str| hashings.digests(key.as_bytes()).count();
        assert_eq!(count(Hashings::default(), "a_b"), 1);
        assert_eq!(count(Hashings::ALL, "a_b"), 3);
        assert_eq!(count(Hashings::ALL, "ab"), 2);
        let last = Hashings { last_part: true, ..Hashings::default() };
        assert!(last.digests(b"a_b").any(|digest| digest == KeyDigest::of(b"b")));
        // A SHA-512 that was stolen is no key.
        let stolen = sha512(b"ab");
        assert!(
            !Hashings::ALL.digests(&stolen).any(|digest| digest == KeyDigest::of_sha512(&stolen))
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_before_the_bar(number in "[^|]{0,20}", secret in ".{1,80}") {
            let key = format!("{number}|{secret}");
            prop_assert_eq!(behind_bar(key.as_bytes()), secret.as_bytes());
        }
    }
}
