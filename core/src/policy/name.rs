//! Names that users choose.

/// Environments and keyspaces: short and lower-case, because prefixes and channels contain them.
pub fn is_identifier(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

pub const IDENTIFIER_RULE: &str =
    "must have 1 to 63 characters of a-z, 0-9, _ and -, the first of them a letter";

/// Tenants, members, roles, plans: any printable text of reasonable length.
pub fn is_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=200).contains(&length)
        && !name.chars().any(char::is_control)
        && !name.starts_with(char::is_whitespace)
        && !name.ends_with(char::is_whitespace)
}

pub const NAME_RULE: &str =
    "must have 1 to 200 characters, no control characters and no space at either end";

/// Who issues tokens, or takes them: a `StringOrURI` of RFC 7519, so that it is a URI if it has a
/// colon.
pub fn is_principal(name: &str) -> bool {
    let length = name.chars().count();
    let is_free = |c: char| !c.is_control() && !c.is_whitespace();
    (1..=255).contains(&length)
        && name.chars().all(is_free)
        && name.split_once(':').is_none_or(|(scheme, rest)| is_uri(scheme, rest))
}

pub const PRINCIPAL_RULE: &str = "must have 1 to 255 characters, no spaces and no control \
                                  characters, and be a URI if it has a colon";

/// Whether a scheme and what follows the colon have the characters that RFC 3986 allows.
fn is_uri(scheme: &str, rest: &str) -> bool {
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let of_rest = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(of_scheme)
        && rest.bytes().all(of_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["a", "default", "rimp-2", "a_b", &"x".repeat(63)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "A", "1a", "_a", "a b", "é", "a\u{0}", &"x".repeat(64)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn principals() {
        for good in ["default", "a/b", "https://api.example.com/v1?a=%20", "urn:a:b", "é"] {
            assert!(is_principal(good), "{good}");
        }
        assert!(is_principal(&"é".repeat(255)) && !is_principal(&"é".repeat(256)));
        for bad in
            ["", " ", "a b", "a\tb", "a\u{a0}b", "a\0", ":a", "1a:b", "a b:c", "https://é", "a:\""]
        {
            assert!(!is_principal(bad), "{bad}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "Acme, Inc.", "ünïcode ✓", "'; DROP TABLE", &"é".repeat(200)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", "a\u{0}b", "\u{7f}", &"é".repeat(201)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
