//! Routes: the methods and paths of an API, and what they require.
//!
//! A pattern is a path. Its segments are literals, `{name}` for any one segment, and at the end `*`
//! for one or more segments. Of the patterns that match a path, the most specific one wins: from
//! the left, a literal before a `{name}` before a `*`. A method may be `*` too, and a named method
//! wins over it.

use std::collections::HashMap;

/// The longest path that is looked at, in bytes.
pub const MAX_PATH_LEN: usize = 8192;
/// The longest pattern, in bytes.
const MAX_PATTERN_LEN: usize = 1000;
/// The most segments of a path or a pattern.
const MAX_SEGMENTS: usize = 64;

/// Whether the text is a method or `*`.
pub fn is_method(method: &str) -> bool {
    method == "*"
        || (1..=32).contains(&method.len())
            && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_')
}

pub const METHOD_RULE: &str = "must be an HTTP method such as GET, or *";

/// Whether the text is a method that a request can have.
pub fn is_requested_method(method: &[u8]) -> bool {
    (1..=32).contains(&method.len())
        && method.iter().all(|b| b.is_ascii_alphabetic() || matches!(b, b'-' | b'_'))
}

/// A pattern in its stored form. As in paths, one / at the end makes no difference.
pub fn without_slash(pattern: &str) -> &str {
    match pattern.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() && !shorter.ends_with('/') => shorter,
        _ => pattern,
    }
}

/// Checks a pattern in its stored form. The error completes "pattern …".
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err("must begin with /".into());
    };
    if pattern.len() > MAX_PATTERN_LEN || path.split('/').count() > MAX_SEGMENTS {
        return Err(format!(
            "must have at most {MAX_SEGMENTS} segments and {MAX_PATTERN_LEN} bytes"
        ));
    }
    let segments: Vec<&str> = path.split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        let is_parameter =
            segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
        let is_literal = !segment.is_empty()
            && !matches!(*segment, "." | "..")
            && !segment
                .chars()
                .any(|c| matches!(c, '{' | '}' | '*' | '?' | '#' | '%' | '\\' | ';'))
            && !segment.chars().any(|c| c.is_control() || c.is_whitespace());
        match *segment {
            "*" if is_last => {}
            "*" => return Err("may have * as its last segment only; write {name} before it".into()),
            "" if is_last && segments.len() == 1 => {}
            "" => return Err("must not have empty segments".into()),
            _ if is_parameter || is_literal => {}
            _ => {
                return Err(format!("has the segment {segment:?}; write a literal, {{name}} or *"));
            }
        }
    }
    Ok(())
}

/// A path, decoded and without its query.
pub struct Path(Vec<Vec<u8>>);

impl Path {
    /// Splits a path. `None` for a path that servers may understand in different ways: with `.` or
    /// `..`, empty segments, encoded separators, backslashes, semicolons (some servers cut a segment
    /// there), fragments, an encoded question mark (some begin the query there), double encoding,
    /// bytes that are not UTF-8, or control characters. Such a path matches no route, and must
    /// not be let through.
    pub fn parse(path: &[u8]) -> Option<Path> {
        let end = path.iter().position(|b| *b == b'?').unwrap_or(path.len());
        if end > MAX_PATH_LEN {
            return None;
        }
        let path = path[..end].strip_prefix(b"/")?;
        if path.is_empty() {
            return Some(Path(Vec::new()));
        }
        // One / at the end makes no difference.
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut segments = Vec::new();
        for segment in path.split(|b| *b == b'/') {
            segments.push(decode(segment)?);
            if segments.len() > MAX_SEGMENTS {
                return None;
            }
        }
        Some(Path(segments))
    }
}

impl Path {
    /// A segment, counted from 0.
    pub fn segment(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index).map(Vec::as_slice)
    }
}

/// The place of a parameter in a pattern, counted from 0.
pub fn place_of(pattern: &str, parameter: &str) -> Option<usize> {
    let name = |segment: &str| segment.strip_prefix('{')?.strip_suffix('}').map(String::from);
    pattern.split('/').skip(1).position(|segment| name(segment).as_deref() == Some(parameter))
}

/// How often a pattern has a parameter.
pub fn count_of(pattern: &str, parameter: &str) -> usize {
    let segment = format!("{{{parameter}}}");
    pattern.split('/').filter(|part| *part == segment).count()
}

/// Whether a pattern is at least as specific as another one that matches the same path.
pub fn is_as_specific(pattern: &[u8], other: &[u8]) -> bool {
    let rank = |segment: Option<&[u8]>| match segment {
        Some([b'{', ..]) => 1,
        Some(b"*") | None => 2,
        Some(_) => 0,
    };
    let (mut pattern, mut other) = (pattern.split(|b| *b == b'/'), other.split(|b| *b == b'/'));
    loop {
        let (ours, theirs) = (pattern.next(), other.next());
        match rank(ours).cmp(&rank(theirs)) {
            _ if ours.is_none() && theirs.is_none() => return true,
            std::cmp::Ordering::Equal => {}
            less => return less.is_lt(),
        }
    }
}

fn decode(segment: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(if byte == b'%' {
            let (&[high, low], after) = rest.split_first_chunk()?;
            rest = after;
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            digit(high)? * 16 + digit(low)?
        } else {
            byte
        });
    }
    is_harmless(&decoded).then_some(decoded)
}

/// Whether a decoded segment means the same to every server.
fn is_harmless(segment: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(segment) else { return false };
    let still_encoded = segment.windows(3).any(|three| {
        three[0] == b'%' && three[1].is_ascii_hexdigit() && three[2].is_ascii_hexdigit()
    });
    !matches!(text, "" | "." | "..")
        && !still_encoded
        && !text.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ';' | '#' | '?'))
}

/// The result of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'a, T> {
    Route(&'a T),
    /// The path and method are listed, but not in this variant.
    UnknownVariant,
    Unlisted,
}

/// All routes of a keyspace.
pub struct Routes<T> {
    root: Node<T>,
}

struct Node<T> {
    literals: HashMap<Box<[u8]>, Node<T>>,
    parameter: Option<Box<Node<T>>>,
    /// The routes whose pattern ends here, by method.
    here: Vec<Entry<T>>,
    /// The routes whose pattern has `*` as its last segment here, by method.
    rest: Vec<Entry<T>>,
}

struct Entry<T> {
    method: Box<[u8]>,
    variants: Vec<(Box<[u8]>, T)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Node { literals: HashMap::new(), parameter: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes { root: Node::default() }
    }
}

impl<T> Routes<T> {
    /// Adds a route. The pattern must be one that `check_pattern` accepts.
    pub fn add(&mut self, method: &[u8], pattern: &[u8], variant: &[u8], value: T) {
        let mut node = &mut self.root;
        let path = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let is_open = pattern.ends_with(b"/*");
        for segment in path.split(|b| *b == b'/') {
            match segment {
                b"" | b"*" => {}
                [b'{', ..] => node = node.parameter.get_or_insert_default(),
                literal => node = node.literals.entry(literal.into()).or_default(),
            }
        }
        let entries = if is_open { &mut node.rest } else { &mut node.here };
        let known = entries.iter().position(|entry| *entry.method == *method);
        let index = known.unwrap_or_else(|| {
            entries.push(Entry { method: method.into(), variants: Vec::new() });
            entries.len() - 1
        });
        entries[index].variants.push((variant.into(), value));
    }

    /// Whether there is a route of this pattern for a method: its own, or one for all methods.
    pub fn has(&self, method: &[u8], pattern: &[u8]) -> bool {
        let path = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let mut node = Some(&self.root);
        for segment in path.split(|b| *b == b'/') {
            node = match segment {
                b"" | b"*" => node,
                [b'{', ..] => node.and_then(|node| node.parameter.as_deref()),
                literal => node.and_then(|node| node.literals.get(literal)),
            };
        }
        let Some(node) = node else { return false };
        let entries = if pattern.ends_with(b"/*") { &node.rest } else { &node.here };
        entries.iter().any(|entry| *entry.method == *method || *entry.method == *b"*")
    }

    /// All variants of the most specific route for a request.
    pub fn variants(&self, method: &[u8], path: &Path) -> impl Iterator<Item = &T> {
        let entry = self.root.find(method, &path.0);
        entry.into_iter().flat_map(|entry| entry.variants.iter().map(|(_, value)| value))
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// All values with their methods and variants, in no order.
    pub fn all(&self) -> Vec<(&[u8], &[u8], &T)> {
        let mut found = Vec::new();
        self.root.collect(&mut found);
        found
    }

    /// The values of the most specific pattern for a path, with their methods.
    pub fn at(&self, path: &Path) -> impl Iterator<Item = (&[u8], &T)> {
        let entries = self.root.at(&path.0).unwrap_or_default().iter();
        entries.flat_map(|entry| entry.variants.iter().map(|(_, value)| (&*entry.method, value)))
    }

    /// Whether some route matches a request if upper and lower case are the same, as some servers take
    /// them. Only ASCII letters are compared so.
    pub fn has_in_any_case(&self, method: &[u8], path: &Path) -> bool {
        self.root.has_in_any_case(method, &path.0)
    }

    /// The most specific route for a request. No variant is the variant "".
    pub fn find(&self, method: &[u8], path: &Path, variant: &[u8]) -> Match<'_, T> {
        let Some(entry) = self.root.find(method, &path.0) else { return Match::Unlisted };
        match entry.variants.iter().find(|(name, _)| **name == *variant) {
            Some((_, value)) => Match::Route(value),
            None => Match::UnknownVariant,
        }
    }
}

impl<T> Node<T> {
    fn find(&self, method: &[u8], segments: &[Vec<u8>]) -> Option<&Entry<T>> {
        let Some((segment, after)) = segments.split_first() else {
            return with_method(&self.here, method);
        };
        let literal = || self.literals.get(segment.as_slice())?.find(method, after);
        let parameter = || self.parameter.as_ref()?.find(method, after);
        literal().or_else(parameter).or_else(|| with_method(&self.rest, method))
    }

    fn has_in_any_case(&self, method: &[u8], segments: &[Vec<u8>]) -> bool {
        let Some((segment, after)) = segments.split_first() else {
            return with_method(&self.here, method).is_some();
        };
        let literals =
            self.literals.iter().filter(|(literal, _)| literal.eq_ignore_ascii_case(segment));
        literals
            .map(|(_, node)| node)
            .chain(self.parameter.as_deref())
            .any(|node| node.has_in_any_case(method, after))
            || with_method(&self.rest, method).is_some()
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.parameter.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }

    fn collect<'a>(&'a self, found: &mut Vec<(&'a [u8], &'a [u8], &'a T)>) {
        for entry in self.here.iter().chain(&self.rest) {
            let variants = entry.variants.iter();
            found.extend(variants.map(|(variant, value)| (&*entry.method, &**variant, value)));
        }
        let children = self.literals.values().chain(self.parameter.as_deref());
        children.for_each(|child| child.collect(found));
    }

    fn at(&self, segments: &[Vec<u8>]) -> Option<&[Entry<T>]> {
        let some = |entries| Some(entries).filter(|entries: &&[Entry<T>]| !entries.is_empty());
        let Some((segment, after)) = segments.split_first() else { return some(&self.here) };
        let literal = || self.literals.get(segment.as_slice())?.at(after);
        let parameter = || self.parameter.as_ref()?.at(after);
        literal().or_else(parameter).or_else(|| some(&self.rest))
    }
}

fn with_method<'a, T>(entries: &'a [Entry<T>], method: &[u8]) -> Option<&'a Entry<T>> {
    let named =
        |wanted: &[u8]| entries.iter().find(|entry| entry.method.eq_ignore_ascii_case(wanted));
    // Servers answer HEAD as they answer GET.
    let as_get = || if method.eq_ignore_ascii_case(b"HEAD") { named(b"GET") } else { None };
    named(method).or_else(as_get).or_else(|| named(b"*"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(routes: &[(&str, &str, &str)]) -> Routes<String> {
        let mut table = Routes::default();
        for (method, pattern, variant) in routes {
            assert!(is_method(method), "{method}");
            check_pattern(pattern).unwrap();
            let name = format!("{method} {pattern} {variant}");
            table.add(
                method.as_bytes(),
                pattern.as_bytes(),
                variant.as_bytes(),
                name.trim().into(),
            );
        }
        table
    }

    #[test]
    fn all_routes_are_listed() {
        let routes =
            [("GET", "/", ""), ("GET", "/a/{id}", ""), ("*", "/a/*", "v"), ("GET", "/a", "x")];
        let table = table(&routes);
        let mut all: Vec<&str> = table.all().into_iter().map(|(.., name)| &**name).collect();
        all.sort();
        assert_eq!(all, ["* /a/* v", "GET /", "GET /a x", "GET /a/{id}"]);
    }

    fn find<'a>(table: &'a Routes<String>, method: &str, path: &str) -> Option<&'a str> {
        match table.find(method.as_bytes(), &Path::parse(path.as_bytes())?, b"") {
            Match::Route(name) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn some_servers_take_upper_case_for_lower() {
        let table = table(&[("GET", "/photos/{id}/Parts", ""), ("*", "/admin/*", "")]);
        for (method, path, expected) in [
            ("GET", "/PHOTOS/1/parts", true),
            ("HEAD", "/photos/1/%50ARTS/", true),
            ("POST", "/photos/1/parts", false),
            ("GET", "/photos/1", false),
            ("GET", "/PHOTOS/1/parts/2", false),
            ("DELETE", "/Admin/a/b", true),
            ("DELETE", "/Admin", false),
            ("GET", "/", false),
        ] {
            let parsed = Path::parse(path.as_bytes()).unwrap();
            assert_eq!(
                table.has_in_any_case(method.as_bytes(), &parsed),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn all_variants_of_the_route_that_wins() {
        let table = table(&[
            ("GET", "/images/{id}", ""),
            ("GET", "/images/{id}", "large"),
            ("GET", "/images/*", "other"),
            ("POST", "/images/{id}", ""),
        ]);
        let variants = |method: &str, path: &str| {
            let path = Path::parse(path.as_bytes()).unwrap();
            table.variants(method.as_bytes(), &path).cloned().collect::<Vec<_>>()
        };
        assert_eq!(variants("GET", "/images/1"), ["GET /images/{id}", "GET /images/{id} large"]);
        assert_eq!(variants("GET", "/images/1/2"), ["GET /images/* other"]);
        assert!(variants("PUT", "/images/1").is_empty());
        assert!(variants("GET", "/videos").is_empty());
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table(&[
            ("GET", "/", ""),
            ("GET", "/v1/images", ""),
            ("GET", "/v1/images/{id}", ""),
            ("GET", "/v1/images/latest", ""),
            ("*", "/v1/images/{id}", ""),
            ("*", "/v1/*", ""),
            ("POST", "/v1/{kind}/latest", ""),
            ("GET", "/v1/images/{id}/parts/*", ""),
        ]);
        for (method, path, expected) in [
            ("GET", "/", Some("GET /")),
            ("GET", "/v1/images", Some("GET /v1/images")),
            ("get", "/v1/images/", Some("GET /v1/images")),
            ("GET", "/v1/images?page=2", Some("GET /v1/images")),
            ("GET", "/v1/images/7", Some("GET /v1/images/{id}")),
            ("PUT", "/v1/images/7", Some("* /v1/images/{id}")),
            ("GET", "/v1/images/latest", Some("GET /v1/images/latest")),
            ("GET", "/v1/images/l%61test", Some("GET /v1/images/latest")),
            // From the left: the literal "images" is tried before {kind}.
            ("POST", "/v1/images/latest", Some("* /v1/images/{id}")),
            ("POST", "/v1/videos/latest", Some("POST /v1/{kind}/latest")),
            ("HEAD", "/v1/images", Some("GET /v1/images")),
            ("HEAD", "/v1/images/7", Some("GET /v1/images/{id}")),
            ("POST", "/v1/images", Some("* /v1/*")),
            ("GET", "/v1/images/7/parts", Some("* /v1/*")),
            ("GET", "/v1/images/7/parts/1", Some("GET /v1/images/{id}/parts/*")),
            ("GET", "/v1/images/7/parts/1/2", Some("GET /v1/images/{id}/parts/*")),
            ("GET", "/v1", None),
            ("GET", "/v2/images", None),
            ("GET", "/V1/images", None),
        ] {
            assert_eq!(find(&table, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn variants_are_named_by_the_caller() {
        let table = table(&[("POST", "/c", ""), ("POST", "/c", "image-only"), ("GET", "/c", "x")]);
        let path = Path::parse(b"/c").unwrap();
        let look = |method: &[u8], variant: &[u8]| table.find(method, &path, variant);
        assert_eq!(look(b"POST", b""), Match::Route(&"POST /c".into()));
        assert_eq!(look(b"POST", b"image-only"), Match::Route(&"POST /c image-only".into()));
        assert_eq!(look(b"POST", b"image_only"), Match::UnknownVariant);
        assert_eq!(look(b"GET", b""), Match::UnknownVariant);
        assert_eq!(look(b"PUT", b""), Match::Unlisted);
    }

    #[test]
    fn ambiguous_paths_are_none() {
        for bad in [
            "",
            "v1",
            "//",
            "/a//b",
            "//a",
            "/.",
            "/a/..",
            "/a/../b",
            "/%2e%2e/a",
            "/a/%2E",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a\nb",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a;b",
            "/a/..;/b",
            "/a%3bb",
            "/a#/../b",
            "/a%23",
            "/a%3f",
            "/a%3Fb=1",
            "/a%3F/b",
            "/a%253F",
            "/a%25253F",
            "/a%c0%bf",
            "/a%u003f",
            "/%252e%252e/a",
            "/%c0%af",
            "/\u{85}",
            "/\u{7f}",
            "?",
            "*",
        ] {
            assert!(Path::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
        for good in
            ["/", "/a", "/a/", "/a.b", "/...", "/%20a", "/é", "/%c3%a9", "/50%25", "/?x=../..;#"]
        {
            assert!(Path::parse(good.as_bytes()).is_some(), "{good:?}");
        }
        assert!(Path::parse(format!("/{}", "a/".repeat(65)).as_bytes()).is_none());
        assert!(Path::parse(format!("/{}", "a".repeat(MAX_PATH_LEN)).as_bytes()).is_none());
    }

    #[test]
    fn patterns() {
        for good in ["/", "/*", "/a", "/a/{id}", "/a/{id}/*", "/v1.0/a-b_c~d:e@f", "/é"] {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for bad in [
            "", "a", "/a/", "//", "/a//b", "/*/a", "/a*", "/{}", "/{a", "/a}", "/{a-b}", "/{a}b",
            "/a?b", "/a;b", "/a#", "/%61", "/..", "/./a", "/a b", "/a\n", "/a\\b",
        ] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_slash_at_the_end() {
        for (given, kept) in [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/{id}/", "/{id}")] {
            assert_eq!(without_slash(given), kept);
        }
        for bad in ["//", "/a//"] {
            assert!(check_pattern(without_slash(bad)).is_err(), "{bad}");
        }
    }

    /// The expected answer of `find`, found by trying every pattern.
    fn naive(routes: &[String], path: &str) -> Option<String> {
        let path: Vec<&str> = path[1..].split('/').collect();
        let matches = |pattern: &&String| {
            let segments: Vec<&str> = pattern[1..].split('/').collect();
            let is_open = segments.last() == Some(&"*");
            let fixed = if is_open { &segments[..segments.len() - 1] } else { &segments[..] };
            (if is_open { path.len() > fixed.len() } else { path.len() == fixed.len() })
                && fixed.iter().zip(&path).all(|(s, p)| s.starts_with('{') || s == p)
        };
        let rank = |pattern: &&String| -> Vec<u8> {
            let rank = |segment: &str| match segment.as_bytes()[0] {
                b'*' => 2,
                b'{' => 1,
                _ => 0,
            };
            pattern[1..].split('/').map(rank).collect()
        };
        routes.iter().filter(matches).min_by_key(rank).cloned()
    }

    #[test]
    fn patterns_at_a_path() {
        let table = table(&[
            ("GET", "/v1/keys/{id}", ""),
            ("DELETE", "/v1/keys/{key}", ""),
            ("GET", "/v1/keys", ""),
            ("*", "/v1/*", ""),
        ]);
        let at = |path: &str| {
            let path = Path::parse(path.as_bytes()).unwrap();
            let methods = table.at(&path).map(|(method, _)| String::from_utf8_lossy(method).into());
            methods.collect::<Vec<String>>()
        };
        assert_eq!(at("/v1/keys/a"), ["GET", "DELETE"]);
        assert_eq!(at("/v1/keys"), ["GET"]);
        assert_eq!(at("/v1/other"), ["*"]);
        assert_eq!(at("/v2"), Vec::<String>::new());
        assert!(!table.is_empty() && Routes::<()>::default().is_empty());
    }

    #[test]
    fn parameters_have_places() {
        assert_eq!(place_of("/v1/keys/{id}", "id"), Some(2));
        assert_eq!(place_of("/{id}/x", "id"), Some(0));
        assert_eq!(place_of("/v1/keys/id", "id"), None);
        let path = Path::parse(b"/v1/keys/a%62?x").unwrap();
        assert_eq!(path.segment(2), Some(&b"ab"[..]));
        assert_eq!(path.segment(3), None);
    }

    #[test]
    fn patterns_are_compared_from_the_left() {
        let at_least = |one: &str, other: &str| is_as_specific(one.as_bytes(), other.as_bytes());
        for (specific, general) in [
            ("/v1/keys", "/v1/{x}"),
            ("/v1/{x}", "/v1/*"),
            ("/v1/a/{x}", "/v1/{y}/b"),
            ("/v1/a/b", "/*"),
        ] {
            assert!(at_least(specific, general) && !at_least(general, specific), "{specific}");
        }
        assert!(at_least("/v1/{x}/a", "/v1/{id}/a"));
    }

    proptest! {
        #[test]
        fn find_agrees_with_trying_every_pattern(
            routes in proptest::collection::vec("(/[ab]|/\\{x\\}){1,4}(/\\*)?", 1..12),
            path in "(/[abc]){1,5}",
        ) {
            let mut routes = routes;
            routes.sort();
            routes.dedup();
            let listed: Vec<(&str, &str, &str)> =
                routes.iter().map(|pattern| ("GET", pattern.as_str(), "")).collect();
            let table = table(&listed);
            let expected = naive(&routes, &path).map(|pattern| format!("GET {pattern}"));
            prop_assert_eq!(find(&table, "GET", &path), expected.as_deref());
        }

        #[test]
        fn any_bytes_are_taken_without_panic(path in proptest::collection::vec(any::<u8>(), 0..100)) {
            let table = table(&[("GET", "/*", "")]);
            if let Some(path) = Path::parse(&path) {
                let _ = table.find(b"GET", &path, b"");
            }
        }
    }
}
