//! Scopes: the names of permissions, and the grants that cover them.

use super::implications::Implications;
use super::verdict::Reason;
use std::borrow::Cow;

/// The longest scope name.
pub const MAX_SCOPE_LEN: usize = 128;

/// A permission's name: segments of `[A-Za-z0-9_./-]` joined by colons.
pub fn is_scope(name: &str) -> bool {
    name.len() <= MAX_SCOPE_LEN && name.split(':').all(is_segment)
}

/// Whether the text is a segment of a scope.
pub fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-'))
}

/// A grant is a scope, `*`, or `prefix:*`.
pub fn is_grant(name: &str) -> bool {
    name == "*" || name.strip_suffix(":*").map_or_else(|| is_scope(name), is_scope)
}

pub const SCOPE_RULE: &str =
    "must have 1 to 128 characters: segments of A-Z, a-z, 0-9, _, ., / and -, joined by colons";

/// Whether a grant covers a scope, without implications.
#[inline]
pub fn covers(grant: &[u8], scope: &[u8]) -> bool {
    match grant {
        b"" => false,
        b"*" => !scope.is_empty(),
        // "images:*" covers "images:write", and "images:*" itself, but not "images:".
        [family @ .., b'*'] if family.ends_with(b":") => {
            scope.len() > family.len() && scope.starts_with(family)
        }
        _ => grant == scope,
    }
}

/// A list of grants, from a key's row or from the policy.
#[derive(Clone, Copy)]
pub enum GrantList<'a> {
    Borrowed(&'a [&'a [u8]]),
    Owned(&'a [Box<[u8]>]),
}

impl<'a> GrantList<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let (borrowed, owned): (&[&[u8]], &[Box<[u8]>]) = match self {
            GrantList::Borrowed(list) => (list, &[]),
            GrantList::Owned(list) => (&[], list),
        };
        borrowed.iter().copied().chain(owned.iter().map(|grant| &**grant))
    }

    fn covers(self, scope: &[u8], implications: &Implications) -> bool {
        let by_name = |wanted: &[u8]| self.iter().any(|grant| covers(grant, wanted));
        by_name(scope)
            || implications.implying(scope).iter().any(|implying| by_name(implying))
            || implications.gives(self.iter(), scope)
    }
}

/// The scopes that a key holds: those that each of several lists allows. The lists are those of
/// the key, of its role, of its owner, of the token that was made from it, and of its tenant. A
/// list that is `None` allows everything.
#[derive(Clone, Copy)]
pub struct HeldScopes<'a> {
    pub within: [Option<GrantList<'a>>; 5],
    implications: &'a Implications,
}

impl<'a> HeldScopes<'a> {
    /// What a key holds without a token.
    #[inline]
    pub fn new(
        [own, role, owners]: [Option<GrantList<'a>>; 3],
        implications: &'a Implications,
    ) -> HeldScopes<'a> {
        HeldScopes { within: [own, role, owners, None, None], implications }
    }

    /// The scopes of a key whose tenant may have a list.
    #[inline]
    pub fn bounded(self, tenants: Option<&'a [&'a [u8]]>) -> HeldScopes<'a> {
        let [own, role, owners, token, _] = self.within;
        let tenants = tenants.map(GrantList::Borrowed);
        HeldScopes { within: [own, role, owners, token, tenants], ..self }
    }

    /// The scopes of a token: those of its list that the key holds now.
    #[inline]
    pub fn narrowed(self, token: GrantList<'a>) -> HeldScopes<'a> {
        let [own, role, owners, _, tenants] = self.within;
        HeldScopes { within: [own, role, owners, Some(token), tenants], ..self }
    }

    #[inline]
    pub fn covers(&self, scope: &[u8]) -> bool {
        !scope.is_empty()
            && self.within.iter().flatten().all(|list| list.covers(scope, self.implications))
    }

    /// The grants to show: those of each list that the other lists cover too.
    #[inline]
    pub fn effective(&self) -> Cow<'a, [&'a [u8]]> {
        const ALL: &[&[u8]] = &[b"*"];
        let mut lists = self.within.iter().flatten();
        match (lists.next(), lists.next()) {
            (None, _) => ALL.into(),
            // Most keys have only their own list, which is short.
            (Some(GrantList::Borrowed(only)), None) => match only.is_sorted_by(|a, b| a < b) {
                true => (*only).into(),
                false => in_order(only.to_vec()).into(),
            },
            _ => {
                let grants = self.within.iter().flatten().flat_map(|list| list.iter());
                in_order(grants.filter(|grant| self.covers(grant)).collect()).into()
            }
        }
    }
}

fn in_order(mut grants: Vec<&[u8]>) -> Vec<&[u8]> {
    grants.sort_unstable();
    grants.dedup();
    grants
}

/// The scopes that a request needs.
pub trait Required {
    /// The reason to refuse a key, if it does not hold the needed scopes.
    fn refuses(&self, held: &HeldScopes) -> Option<Reason>;
}

/// A key needs all of these scopes. A null comes from a caller who does not know what is needed,
/// so every key is refused.
impl Required for [Option<&[u8]>] {
    fn refuses(&self, held: &HeldScopes) -> Option<Reason> {
        if self.contains(&None) {
            return Some(Reason::ScopesNull);
        }
        let is_held = self.iter().flatten().all(|scope| held.covers(scope));
        (!is_held).then_some(Reason::InsufficientScope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for good in ["a", "images:write", "read-only", "a:b:c", "v1/images.read", "A_1"] {
            assert!(is_scope(good) && is_grant(good), "{good}");
        }
        for bad in ["", ":", "a:", ":a", "a::b", "a b", "é", "a|b", "a&b", "(a)", "a'", "\u{0}"] {
            assert!(!is_scope(bad) && !is_grant(bad), "{bad}");
        }
        for grant in ["*", "images:*", "a:b:*"] {
            assert!(is_grant(grant) && !is_scope(grant), "{grant}");
        }
        for bad in ["**", "a*", "*:a", "a:*:b", ":*", "*:*"] {
            assert!(!is_grant(bad), "{bad}");
        }
        assert!(!is_scope(&"x".repeat(129)));
    }

    #[test]
    fn wildcards_cover_whole_segments_only() {
        for (grant, scope, expected) in [
            ("*", "anything:at:all", true),
            ("images:*", "images:write", true),
            ("images:*", "images:write:all", true),
            ("images:*", "images:*", true),
            ("images:*", "images", false),
            ("images:*", "images:", false),
            ("images:*", "imagesx:write", false),
            ("images:write", "images:write", true),
            ("images:write", "images:*", false),
            ("images:write", "images", false),
            ("read", "read-only", false),
            ("a*", "ab", false),
            ("", "", false),
            ("*", "", false),
        ] {
            assert_eq!(covers(grant.as_bytes(), scope.as_bytes()), expected, "{grant} ~ {scope}");
        }
    }

    fn implications(direct: &[(&str, &[&'static str])]) -> Implications {
        let table: Vec<_> = direct.iter().map(|(scope, list)| (*scope, list.to_vec())).collect();
        Implications::new(&table)
    }

    fn held_within<'a>(
        lists: [Option<&'a [&'a [u8]]>; 2],
        implications: &'a Implications,
    ) -> HeldScopes<'a> {
        let [one, two] = lists.map(|list| list.map(GrantList::Borrowed));
        HeldScopes::new([one, two, None], implications)
    }

    #[test]
    fn a_key_never_reaches_above_its_role() {
        let none = Implications::default();
        let own: &[&[u8]] = &[b"images:*", b"videos:read"];
        let role: &[&[u8]] = &[b"images:write", b"users:read"];
        let held = held_within([Some(own), Some(role)], &none);
        assert!(held.covers(b"images:write"));
        for above in ["images:read", "videos:read", "users:read"] {
            assert!(!held.covers(above.as_bytes()), "{above}");
        }
        assert_eq!(held.effective().to_vec(), [b"images:write"]);
        let unlimited = held_within([None, None], &none);
        assert!(unlimited.covers(b"anything"));
        assert_eq!(unlimited.effective().to_vec(), [b"*"]);
        let nothing = held_within([Some(&[]), None], &none);
        assert!(!nothing.covers(b"anything") && nothing.effective().is_empty());
    }

    #[test]
    fn a_tenant_bounds_what_its_keys_hold() {
        let table = implications(&[("admin", &["write"])]);
        let bound: &[&[u8]] = &[b"write", b"images:read"];
        let own: &[&[u8]] = &[b"admin", b"images:*"];
        let held = held_within([Some(own), None], &table);
        assert_eq!(held.bounded(Some(bound)).effective().to_vec(), [&b"images:read"[..], b"write"]);
        assert!(!held.bounded(Some(bound)).covers(b"admin"));
        assert_eq!(held.bounded(None).effective(), held.effective());
        // A key without a list holds all of the bound, and a token may narrow it further.
        let all = held_within([None, None], &table).bounded(Some(bound));
        assert_eq!(all.effective().to_vec(), [&b"images:read"[..], b"write"]);
        let token: &[&[u8]] = &[b"write", b"videos:read"];
        for narrowed in [
            all.narrowed(GrantList::Borrowed(token)),
            held_within([None, None], &table)
                .narrowed(GrantList::Borrowed(token))
                .bounded(Some(bound)),
        ] {
            assert_eq!(narrowed.effective().to_vec(), [b"write"]);
        }
        let nothing = all.bounded(Some(&[]));
        assert!(!nothing.covers(b"write") && nothing.effective().is_empty());
        assert_eq!(nothing.bounded(None).effective().to_vec(), [b"*"]);
    }

    #[test]
    fn a_token_gives_the_part_of_its_scopes_that_the_key_still_holds() {
        let table = implications(&[("admin", &["write"])]);
        let own: &[&[u8]] = &[b"admin", b"images:*"];
        let held = held_within([Some(own), None], &table);
        let token: &[&[u8]] = &[b"write", b"images:read", b"users:read"];
        let narrowed = held.narrowed(GrantList::Borrowed(token));
        assert_eq!(narrowed.effective().to_vec(), [&b"images:read"[..], b"write"]);
        assert!(!narrowed.covers(b"admin") && !narrowed.covers(b"users:read"));
        // The key holds less now.
        let less: &[&[u8]] = &[b"images:write"];
        let narrowed = held_within([Some(less), None], &table).narrowed(GrantList::Borrowed(token));
        assert!(narrowed.effective().is_empty());
        let nothing = held.narrowed(GrantList::Borrowed(&[]));
        assert!(!nothing.covers(b"admin") && nothing.effective().is_empty());
    }

    /// A few scopes that imply, cover or miss each other.
    fn grants() -> impl Strategy<Value = Vec<&'static str>> {
        const NAMES: &[&str] = &["*", "a:*", "a:b:*", "a:b", "a:b:c", "a", "b", "admin"];
        proptest::collection::vec(proptest::sample::select(NAMES), 0..4)
    }

    proptest! {
        #[test]
        fn a_token_never_gives_more_than_its_key(
            own in proptest::option::of(grants()), role in proptest::option::of(grants()),
            token in grants(), scope in proptest::sample::select(&["a", "a:b", "a:b:c", "b", "admin", "x"][..]),
        ) {
            let table = implications(&[("admin", &["a:b"]), ("b", &["admin"])]);
            let bytes = |list: &[&'static str]| list.iter().map(|grant| grant.as_bytes()).collect::<Vec<_>>();
            let [own, role] = [own, role].map(|list| list.map(|list| bytes(&list)));
            let token = bytes(&token);
            let held = held_within([own.as_deref(), role.as_deref()], &table);
            let narrowed = held.narrowed(GrantList::Borrowed(&token));
            let of_token = held_within([Some(&token), None], &table);
            let scope = scope.as_bytes();
            prop_assert_eq!(narrowed.covers(scope), held.covers(scope) && of_token.covers(scope));
            for shown in narrowed.effective().iter() {
                prop_assert!(held.covers(shown) && of_token.covers(shown));
            }
            let all: &[&[u8]] = &[b"*"];
            prop_assert_eq!(held.narrowed(GrantList::Borrowed(all)).covers(scope), held.covers(scope));
        }
    }
}
