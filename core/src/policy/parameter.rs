//! Parameters in the names of scopes: `projects:write:{id}` stands for `projects:write:42` and for
//! all others of this form, its instances.
//!
//! Keys hold instances and wildcards, never a name with parameters.

use super::scope::{MAX_SCOPE_LEN, is_segment};
use std::borrow::Cow;

/// The most parameters of a name.
const MOST: usize = 4;

/// The name of a parameter, in braces.
fn named(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some(name)
}

/// The names of the parameters of a scope.
pub fn parameters(scope: &str) -> impl Iterator<Item = &str> {
    scope.split(':').filter_map(named)
}

/// Whether the text is a scope, or one with parameters. It begins with a name, so no request
/// chooses what it is about.
pub fn is_pattern(name: &str) -> bool {
    name.len() <= MAX_SCOPE_LEN
        && !name.starts_with('{')
        && name.split(':').all(|segment| is_segment(segment) || named(segment).is_some())
        && parameters(name).count() <= MOST
}

pub const PATTERN_HINT: &str =
    "Segments after the first may be parameters, such as {id}; at most 4 are.";

/// A scope with values for its parameters. Those that have no value stay.
pub fn fill<'v>(scope: &str, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> String {
    let segment = |segment| named(segment).and_then(&value).unwrap_or(Cow::Borrowed(segment));
    let segments: Vec<Cow<str>> = scope.split(':').map(segment).collect();
    segments.join(":")
}

/// The value of a parameter: a part of a request. `None` for one that no scope can have, so only
/// wildcards cover the scope.
pub fn value(part: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(part).ok()?;
    (text.len() <= MAX_SCOPE_LEN && is_segment(text)).then_some(Cow::Borrowed(text))
}

/// Whether a segment of a pattern stands for a segment of a scope.
fn stands_for(pattern: &[u8], segment: &[u8]) -> bool {
    pattern == segment || pattern.starts_with(b"{") && segment != b"*"
}

/// Whether a grant covers an instance of a pattern: it is one, or a wildcard over some.
pub fn has_instance(pattern: &[u8], grant: &[u8]) -> bool {
    let mut patterns = pattern.split(|b| *b == b':');
    let mut grants = grant.split(|b| *b == b':');
    loop {
        match (patterns.next(), grants.next()) {
            (None, None) | (Some(_), Some(b"*")) => return true,
            (Some(pattern), Some(segment)) if stands_for(pattern, segment) => {}
            _ => return false,
        }
    }
}

/// The parameters of a pattern with the values by which a scope is its instance.
pub fn values<'a>(pattern: &'a str, scope: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let is_instance = pattern.split(':').count() == scope.split(':').count()
        && pattern
            .split(':')
            .zip(scope.split(':'))
            .all(|(pattern, segment)| stands_for(pattern.as_bytes(), segment.as_bytes()));
    let pairs = pattern.split(':').zip(scope.split(':'));
    is_instance.then(|| {
        pairs.filter_map(|(pattern, segment)| named(pattern).map(|name| (name, segment))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::scope::{covers, is_grant};
    use proptest::prelude::*;

    #[test]
    fn names_with_parameters() {
        for good in ["a", "a:{id}", "a:{b}:{c_1}", "projects:{id}:write"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "", "a:{}", "a:{i d}", "a:{id}x", "a:x{id}", "a:{{id}}", "a:*", "a:{*}", "a:{é}",
            "{id}", "{id}:a",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
        assert!(is_pattern("s:{a}:{b}:{c}:{d}") && !is_pattern("s:{a}:{b}:{c}:{d}:{e}"));
        assert!(!is_grant("a:{id}"));
        assert_eq!(parameters("s:{a}:b:{c}").collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn only_segments_of_scopes_are_values() {
        for good in ["42", "a-b.c_d", "6f1e"] {
            assert_eq!(value(good.as_bytes()).as_deref(), Some(good));
        }
        let long = "4".repeat(1_000_000);
        for bad in ["", "*", "42:x", "42:*", "a b", "é", "{id}", "a|b", "a&b", "%34", &long] {
            assert_eq!(value(bad.as_bytes()), None, "{bad:.20}");
        }
        assert_eq!(value(&[0xff]), None);
    }

    #[test]
    fn a_scope_without_values_is_covered_by_wildcards_only() {
        let needed = fill("projects:{id}:write", |_| None);
        for (grant, expected) in [
            ("*", true),
            ("projects:*", true),
            ("projects:42:*", false),
            ("projects:42:write", false),
            ("projects", false),
        ] {
            assert_eq!(covers(grant.as_bytes(), needed.as_bytes()), expected, "{grant}");
        }
    }

    #[test]
    fn instances() {
        for (pattern, grant, expected) in [
            ("projects:write:{id}", "projects:write:42", true),
            ("projects:write:{id}", "projects:write:*", true),
            ("projects:write:{id}", "projects:*", true),
            ("projects:write:{id}", "*", true),
            ("projects:write:{id}", "projects:write:{project}", true),
            ("projects:write:{id}", "projects:write", false),
            ("projects:write:{id}", "projects:write:42:x", false),
            ("projects:write:{id}", "projects:write:42:*", false),
            ("projects:write:{id}", "projects:read:*", false),
            ("projects:{id}:write", "projects:42:*", true),
            ("projects:{id}:write", "projects:42:read", false),
            ("images:write", "images:*", true),
            ("images:write", "images:read", false),
        ] {
            let found = has_instance(pattern.as_bytes(), grant.as_bytes());
            assert_eq!(found, expected, "{pattern} ~ {grant}");
        }
        assert_eq!(values("a:{x}:{y}", "a:1:2"), Some(vec![("x", "1"), ("y", "2")]));
        assert_eq!(values("a:{x}", "a:1:2"), None);
        assert_eq!(values("a:{x}", "a:*"), None);
    }

    proptest! {
        #[test]
        fn a_value_never_reaches_beyond_its_segment(part in proptest::collection::vec(any::<u8>(), 0..12)) {
            let needed = fill("p:{id}", |_| value(&part));
            prop_assert_eq!(needed.split(':').count(), 2);
            for grant in ["p:42", "p:42:*", "q:*", "p"] {
                let is_covered = covers(grant.as_bytes(), needed.as_bytes());
                prop_assert_eq!(is_covered, grant == "p:42" && part == b"42");
            }
            prop_assert!(covers(b"p:*", needed.as_bytes()));
        }
    }
}
