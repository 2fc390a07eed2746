//! Keys of other systems.

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

    proptest! {
        #[test]
        fn whatever_comes_before_the_bar(number in "[^|]{0,20}", secret in ".{1,80}") {
            let key = format!("{number}|{secret}");
            prop_assert_eq!(behind_bar(key.as_bytes()), secret.as_bytes());
        }
    }
}
