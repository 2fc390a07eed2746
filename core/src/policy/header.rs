//! The API key in the HTTP headers of a request.
//!
//! Servers, proxies and libraries disagree on what a doubtful header means, and attackers exploit
//! such differences. So each header has one form in which it holds a key. Any other form is
//! malformed: nothing is repaired or guessed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// The headers in which a keyspace accepts keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schemes {
    /// `Authorization: Bearer …`
    pub bearer: bool,
    /// `Authorization: Key …`
    pub key: bool,
    /// `X-API-Key: …`
    pub x_api_key: bool,
    /// `Authorization: Basic …`: the key is the name of the user.
    pub basic: bool,
    /// Other schemes of `Authorization`, and other headers.
    pub own: Vec<Own>,
}

/// A scheme of `Authorization`, or a header, of the keyspace's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    Scheme(Box<str>),
    Header(Box<str>),
}

impl Default for Schemes {
    fn default() -> Self {
        Schemes { bearer: true, key: true, x_api_key: true, ..Schemes::none() }
    }
}

/// The most schemes, and the longest name of one.
const MAX_SCHEMES: usize = 16;
const MAX_NAME_LEN: usize = 64;

/// Schemes that have a name, or a form, of their own.
const NAMED_SCHEMES: [&str; 5] = ["bearer", "key", "basic", "digest", "negotiate"];

/// Headers that mean something else to servers and proxies, which log or forward them.
const OTHER_HEADERS: [&str; 16] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-api-key",
    "user-agent",
    "referer",
    "origin",
];

impl Own {
    fn parse(name: &str) -> Option<Own> {
        let (form, name) = name.split_once(':')?;
        let is_name = (1..=MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let is_one_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        match form {
            "scheme" if is_name && !is_one_of(&NAMED_SCHEMES) => Some(Own::Scheme(name.into())),
            "header" if is_name && !is_one_of(&OTHER_HEADERS) => Some(Own::Header(name.into())),
            _ => None,
        }
    }

    fn is(&self, other: &Own) -> bool {
        match (self, other) {
            (Own::Scheme(a), Own::Scheme(b)) | (Own::Header(a), Own::Header(b)) => {
                a.eq_ignore_ascii_case(b)
            }
            _ => false,
        }
    }
}

impl Schemes {
    fn none() -> Schemes {
        Schemes { bearer: false, key: false, x_api_key: false, basic: false, own: Vec::new() }
    }

    /// The schemes with these names, at least one. `None` for an unknown name.
    pub fn parse<'n>(names: impl Iterator<Item = &'n [u8]>) -> Option<Schemes> {
        let mut schemes = Schemes::none();
        let mut count = 0;
        for name in names {
            count += 1;
            match name {
                b"bearer" => schemes.bearer = true,
                b"key" => schemes.key = true,
                b"x_api_key" => schemes.x_api_key = true,
                b"basic" => schemes.basic = true,
                other => schemes.add(Own::parse(std::str::from_utf8(other).ok()?)?),
            }
        }
        (1..=MAX_SCHEMES).contains(&count).then_some(schemes)
    }

    /// A name may be given twice, in other letters too.
    fn add(&mut self, own: Own) {
        if !self.own.iter().any(|known| known.is(&own)) {
            self.own.push(own);
        }
    }

    /// The accepted schemes of `Authorization`, as challenges name them.
    pub fn challenges(&self) -> impl Iterator<Item = &str> {
        let named = [(self.bearer, "Bearer"), (self.key, "Key"), (self.basic, "Basic")];
        let named = named.into_iter().filter_map(|(is_accepted, name)| is_accepted.then_some(name));
        named.chain(self.own_schemes())
    }

    fn own_schemes(&self) -> impl Iterator<Item = &str> {
        self.own.iter().filter_map(|own| match own {
            Own::Scheme(name) => Some(&**name),
            Own::Header(_) => None,
        })
    }

    /// The header that this name stands for, if keys are accepted in it.
    #[inline]
    fn header(&self, name: &[u8]) -> Option<Header> {
        let is_own = || {
            self.own.iter().any(|own| {
                matches!(own, Own::Header(known) if known.as_bytes().eq_ignore_ascii_case(name))
            })
        };
        if name.eq_ignore_ascii_case(b"authorization") {
            let is_accepted = self.bearer || self.key || self.basic;
            (is_accepted || self.own_schemes().next().is_some()).then_some(Header::Authorization)
        } else if self.x_api_key && name.eq_ignore_ascii_case(b"x-api-key") || is_own() {
            Some(Header::Key)
        } else {
            None
        }
    }

    /// The token of an `Authorization` header.
    fn authorized<'a>(&self, value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let (scheme, rest) = value.split_at(value.iter().position(|b| is_blank(*b))?);
        let rest = token(trimmed_start(rest))?;
        let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
        if self.bearer && is("bearer") || self.key && is("key") || self.own_schemes().any(is) {
            Some(Cow::Borrowed(rest))
        } else if self.basic && is("basic") {
            user(rest).map(Cow::Owned)
        } else {
            None
        }
    }
}

/// The user's name in the credentials of the scheme Basic.
fn user(credentials: &[u8]) -> Option<Vec<u8>> {
    let mut user = STANDARD.decode(credentials).ok()?;
    let end = user.iter().position(|b| *b == b':')?;
    user.truncate(end);
    token(&user)?;
    Some(user)
}

#[derive(PartialEq, Eq)]
enum Header {
    Authorization,
    /// A header whose value is the key.
    Key,
}

pub const SCHEMES_RULE: &str = "must be one to 16 of bearer, key, x_api_key, basic, \
     scheme:Name for a scheme of Authorization, and header:Name for a header of your own";

/// The value of a header. It holds a key, so it must not be printed.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug))]
pub enum HeaderValue<'a> {
    Text(&'a [u8]),
    Null,
    /// A number, a boolean or something nested: no header has such a value.
    Other,
}

/// The result for all headers. It holds a key, so it must not be printed.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub enum Credential<'a> {
    Missing,
    /// A header that is for keys has a value, but there is not one key in an accepted form.
    Malformed,
    Key(Cow<'a, [u8]>),
}

/// Finds the key among headers that are added one value at a time, in any order.
pub struct Finder<'s, 'a> {
    schemes: &'s Schemes,
    found: Credential<'a>,
    /// Whether there was an empty value.
    saw_blank: bool,
}

impl<'s, 'a> Finder<'s, 'a> {
    #[inline]
    pub fn new(schemes: &'s Schemes) -> Self {
        Finder { schemes, found: Credential::Missing, saw_blank: false }
    }

    /// Whether the values of this header matter. The values of others need not be added.
    #[inline]
    pub fn is_relevant(&self, name: &[u8]) -> bool {
        self.schemes.header(name).is_some()
    }

    /// Adds a value. A header may have several.
    pub fn add(&mut self, name: &[u8], value: HeaderValue<'a>) {
        let Some(header) = self.schemes.header(name) else { return };
        let token = match value {
            HeaderValue::Null => return,
            // Clients that have no key send this. It names no scheme and holds no credentials.
            HeaderValue::Text(text)
                if header == Header::Authorization && trimmed(text).is_empty() =>
            {
                self.saw_blank = true;
                return;
            }
            HeaderValue::Other => None,
            HeaderValue::Text(text) => match header {
                Header::Authorization => self.schemes.authorized(trimmed(text)),
                Header::Key => token(trimmed(text)).map(Cow::Borrowed),
            },
        };
        self.found = match (std::mem::replace(&mut self.found, Credential::Missing), token) {
            (Credential::Missing, Some(token)) => Credential::Key(token),
            (Credential::Key(known), Some(token)) if known == token => Credential::Key(known),
            // With two different keys, another server might use the other one.
            _ => Credential::Malformed,
        };
    }

    #[inline]
    pub fn credential(self) -> Credential<'a> {
        match self.found {
            // Another server might use the empty value.
            Credential::Key(_) if self.saw_blank => Credential::Malformed,
            found => found,
        }
    }
}

/// The text, if it is exactly one token. A comma would join two.
fn token(text: &[u8]) -> Option<&[u8]> {
    let is_token = !text.is_empty() && text.iter().all(|b| b.is_ascii_graphic() && *b != b',');
    is_token.then_some(text)
}

/// The white space that HTTP allows around values. Line ends are not part of it.
#[inline]
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

pub(super) fn trimmed_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let mut text = trimmed_start(text);
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepting(names: &[&str]) -> Schemes {
        Schemes::parse(names.iter().map(|name| name.as_bytes())).unwrap()
    }

    fn all() -> Schemes {
        accepting(&["bearer", "key", "x_api_key"])
    }

    fn bearer() -> Schemes {
        accepting(&["bearer"])
    }

    fn only_key() -> Schemes {
        accepting(&["key"])
    }

    fn only_x_api_key() -> Schemes {
        accepting(&["x_api_key"])
    }

    fn key(text: &[u8]) -> Credential<'_> {
        Credential::Key(Cow::Borrowed(text))
    }

    fn find<'a>(schemes: &Schemes, headers: &[(&str, HeaderValue<'a>)]) -> Credential<'a> {
        let mut finder = Finder::new(schemes);
        for (name, value) in headers {
            finder.add(name.as_bytes(), *value);
        }
        finder.credential()
    }

    fn authorization<'a>(schemes: &Schemes, value: &'a [u8]) -> Credential<'a> {
        find(schemes, &[("Authorization", HeaderValue::Text(value))])
    }

    fn x_api_key(value: &[u8]) -> Credential<'_> {
        find(&all(), &[("X-API-Key", HeaderValue::Text(value))])
    }

    #[test]
    fn schemes_by_name() {
        let parse = |names: &[&str]| Schemes::parse(names.iter().map(|name| name.as_bytes()));
        assert_eq!(parse(&["bearer", "key", "x_api_key"]), Some(Schemes::default()));
        assert_eq!(parse(&["bearer"]), Some(bearer()));
        assert_eq!(parse(&["key", "key"]), Some(only_key()));
        assert_eq!(parse(&["x_api_key"]), Some(only_x_api_key()));
        for bad in [&[][..], &[""], &["Bearer"], &["Basic"], &["bearer", "x-api-key"], &["key "]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(Schemes::default(), all());
        for bad in [
            "scheme:",
            "scheme:Bearer",
            "scheme:BASIC",
            "scheme:a b",
            "scheme:a,b",
            "scheme:é",
            "header:",
            "header:Authorization",
            "header:cookie",
            "header:X-API-Key",
            "header:a:b",
            "header:x\r\ny",
            "Header:a",
            "other:a",
        ] {
            assert_eq!(parse(&[bad]), None, "{bad:?}");
        }
        let long = format!("header:{}", "x".repeat(65));
        assert_eq!(parse(&[&long]), None);
        assert_eq!(parse(&["key"; 17]), None);
        let challenges = |names| accepting(names).challenges().collect::<Vec<_>>().join(", ");
        assert_eq!(challenges(&["x_api_key", "header:X-My-Key"]), "");
        assert_eq!(
            challenges(&["scheme:Token", "basic", "key", "bearer"]),
            "Bearer, Key, Basic, Token"
        );
        assert_eq!(challenges(&["scheme:Token", "header:Token", "scheme:TOKEN"]), "Token");
    }

    #[test]
    fn schemes_and_headers_of_a_keyspaces_own() {
        let own = accepting(&["scheme:Token", "header:X-My-Key"]);
        for good in ["Token k_1", "token  k_1 ", "TOKEN\tk_1"] {
            assert_eq!(authorization(&own, good.as_bytes()), key(b"k_1"), "{good:?}");
        }
        for bad in ["Bearer k_1", "Key k_1", "Token", "Token a b", "Tokenk_1", "Basic azox"] {
            assert_eq!(authorization(&own, bad.as_bytes()), Credential::Malformed, "{bad:?}");
        }
        let header = |name, value| find(&own, &[(name, HeaderValue::Text(value))]);
        assert_eq!(header("x-my-key", b" k_1 "), key(b"k_1"));
        assert_eq!(header("X-MY-KEY", b"a b"), Credential::Malformed);
        assert_eq!(header("x-api-key", b"k_1"), Credential::Missing);
        let two = [
            ("X-My-Key", HeaderValue::Text(b"a")),
            ("Authorization", HeaderValue::Text(b"Token b")),
        ];
        assert_eq!(find(&own, &two), Credential::Malformed);
        let header_only = accepting(&["header:X-My-Key"]);
        assert_eq!(authorization(&header_only, b"Bearer k_1"), Credential::Missing);
    }

    #[test]
    fn basic_credentials_name_the_key_as_the_user() {
        let basic = accepting(&["basic", "bearer"]);
        let value = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
        for good in [&b"k_1:"[..], b"k_1:x", b"k_1:a:b", b"k_1:\xff"] {
            assert_eq!(authorization(&basic, value(good).as_bytes()), key(b"k_1"), "{good:?}");
        }
        for bad in [&b"k_1"[..], b":x", b"", b"k 1:", b"k,1:", b"\xff:", b"k\n:"] {
            let value = value(bad);
            assert_eq!(authorization(&basic, value.as_bytes()), Credential::Malformed, "{bad:?}");
        }
        for bad in ["Basic", "Basic k_1", "Basic a18x", "Basic a18xOg", "Basic a18xOg==, x"] {
            assert_eq!(authorization(&basic, bad.as_bytes()), Credential::Malformed, "{bad:?}");
        }
        let both = value(b"k_1:x");
        let same = [
            ("authorization", HeaderValue::Text(both.as_bytes())),
            ("Authorization", HeaderValue::Text(b"Bearer k_1")),
        ];
        assert_eq!(find(&basic, &same), key(b"k_1"));
        assert_eq!(authorization(&bearer(), both.as_bytes()), Credential::Malformed);
    }

    #[test]
    fn relevant_headers_are_those_of_accepted_schemes() {
        for (schemes, authorization, x_api_key) in [
            (all(), true, true),
            (bearer(), true, false),
            (only_key(), true, false),
            (only_x_api_key(), false, true),
            (Schemes::none(), false, false),
        ] {
            let finder = Finder::new(&schemes);
            for name in ["authorization", "Authorization", "AUTHORIZATION"] {
                assert_eq!(finder.is_relevant(name.as_bytes()), authorization, "{name}");
            }
            for name in ["x-api-key", "X-API-Key", "X-Api-Key"] {
                assert_eq!(finder.is_relevant(name.as_bytes()), x_api_key, "{name}");
            }
            for name in [
                "",
                "cookie",
                "proxy-authorization",
                "authorization ",
                "x_api_key",
                "authorızation",
            ] {
                assert!(!finder.is_relevant(name.as_bytes()), "{name}");
            }
        }
    }

    #[test]
    fn well_formed_values() {
        for good in [
            "Bearer k_1",
            "bearer k_1",
            "BEARER k_1",
            "Key k_1",
            "kEY k_1",
            "Bearer   k_1",
            "Bearer\tk_1",
            "Key \t k_1",
            " Bearer k_1",
            "\t Bearer k_1 \t",
        ] {
            assert_eq!(authorization(&all(), good.as_bytes()), key(b"k_1"), "{good:?}");
        }
        for good in ["k_1", " k_1", "k_1\t", " \tk_1\t "] {
            assert_eq!(x_api_key(good.as_bytes()), key(b"k_1"), "{good:?}");
        }
        let graphic: Vec<u8> = (b'!'..=b'~').filter(|b| *b != b',').collect();
        assert_eq!(x_api_key(&graphic), key(&graphic));
        let bearer = [b"Bearer ", &graphic[..]].concat();
        assert_eq!(authorization(&all(), &bearer), key(&graphic));
    }

    #[test]
    fn malformed_authorizations() {
        for bad in [
            "k_1",
            "Bearer",
            "Bearer ",
            "Bearer\t ",
            "Key",
            "Basic azox",
            "Digest username=\"k\"",
            "Bearerk_1",
            "Bearer:k_1",
            "Bearer=k_1",
            "Bear er k_1",
            "Bearer Key k_1",
            "Bearer a b",
            "Bearer a\tb",
            "Bearer a, Bearer b",
            "Bearer a,b",
            "Bearer a,",
            "Bearer ,a",
            ", Bearer a",
            "Bearer a\n",
            "Bearer a\r\n",
            "\nBearer a",
            "Bearer\na",
            "Bearer\u{b}a",
            "Bearer \u{c}a",
            "Bearer a\u{0}",
            "\u{0}Bearer a",
            "Bearer a\u{0}b",
            "Bearer a\u{7f}",
            "Bearer a\u{1b}[0m",
            "Bearer é",
            "Bearer\u{a0}a",
            "Bearer a\u{2003}",
            "\u{feff}Bearer a",
            "Ｂearer a",
            "\u{212a}ey a",
        ] {
            assert_eq!(authorization(&all(), bad.as_bytes()), Credential::Malformed, "{bad:?}");
        }
        assert_eq!(authorization(&all(), b"Bearer a\xff"), Credential::Malformed);
    }

    #[test]
    fn malformed_api_keys() {
        for bad in [
            "", " ", "\u{a0}", "a b", "a,b", "a,", "a\n", "a\u{0}", "\ra", "é", "a\u{7f}", "Key a",
            "a\tb",
        ] {
            assert_eq!(x_api_key(bad.as_bytes()), Credential::Malformed, "{bad:?}");
        }
    }

    #[test]
    fn an_empty_authorization_is_no_credential() {
        for blank in ["", " ", "\t", " \t "] {
            assert_eq!(authorization(&all(), blank.as_bytes()), Credential::Missing, "{blank:?}");
        }
        // A scheme without a key is still malformed.
        assert_eq!(authorization(&all(), b"Bearer "), Credential::Malformed);
    }

    #[test]
    fn schemes_that_are_not_accepted() {
        assert_eq!(authorization(&bearer(), b"Bearer a"), key(b"a"));
        assert_eq!(authorization(&bearer(), b"Key a"), Credential::Malformed);
        assert_eq!(authorization(&only_key(), b"Key a"), key(b"a"));
        assert_eq!(authorization(&only_key(), b"Bearer a"), Credential::Malformed);
        // Headers that no accepted scheme uses are ignored.
        assert_eq!(authorization(&only_x_api_key(), b"Bearer a"), Credential::Missing);
        assert_eq!(authorization(&only_x_api_key(), b"Basic azox"), Credential::Missing);
        let both = [
            ("authorization", HeaderValue::Text(b"Basic azox")),
            ("x-api-key", HeaderValue::Text(b"a")),
        ];
        assert_eq!(find(&only_x_api_key(), &both), key(b"a"));
        assert_eq!(find(&all(), &both), Credential::Malformed);
        assert_eq!(
            find(&only_key(), &[("x-api-key", HeaderValue::Text(b"a"))]),
            Credential::Missing
        );
        assert_eq!(find(&Schemes::none(), &both), Credential::Missing);
    }

    #[test]
    fn values_that_are_no_text() {
        assert_eq!(find(&all(), &[]), Credential::Missing);
        assert_eq!(find(&all(), &[("cookie", HeaderValue::Text(b"a"))]), Credential::Missing);
        assert_eq!(find(&all(), &[("cookie", HeaderValue::Other)]), Credential::Missing);
        for name in ["authorization", "x-api-key"] {
            assert_eq!(find(&all(), &[(name, HeaderValue::Null)]), Credential::Missing);
            assert_eq!(
                find(&all(), &[(name, HeaderValue::Null), (name, HeaderValue::Null)]),
                Credential::Missing
            );
            assert_eq!(find(&all(), &[(name, HeaderValue::Other)]), Credential::Malformed);
            let beside_null = [(name, HeaderValue::Null), ("X-Api-Key", HeaderValue::Text(b"a"))];
            assert_eq!(find(&all(), &beside_null), key(b"a"));
            let beside_other = [("X-Api-Key", HeaderValue::Text(b"a")), (name, HeaderValue::Other)];
            assert_eq!(find(&all(), &beside_other), Credential::Malformed);
        }
    }

    #[test]
    fn several_values_must_agree() {
        const BEARER_A: (&str, HeaderValue) = ("Authorization", HeaderValue::Text(b"Bearer a"));
        const BEARER_B: (&str, HeaderValue) = ("authorization", HeaderValue::Text(b"Bearer b"));
        const KEY_A: (&str, HeaderValue) = ("AUTHORIZATION", HeaderValue::Text(b" key\ta "));
        const X_A: (&str, HeaderValue) = ("X-API-Key", HeaderValue::Text(b"a"));
        const X_B: (&str, HeaderValue) = ("x-api-key", HeaderValue::Text(b"b"));
        const X_EMPTY: (&str, HeaderValue) = ("x-api-key", HeaderValue::Text(b""));
        for same in [&[BEARER_A, BEARER_A][..], &[BEARER_A, KEY_A], &[BEARER_A, X_A, KEY_A, X_A]] {
            assert_eq!(find(&all(), same), key(b"a"), "{same:?}");
        }
        for different in [
            &[BEARER_A, BEARER_B][..],
            &[BEARER_A, X_B],
            &[X_A, X_B],
            &[X_A, X_EMPTY],
            &[X_EMPTY, X_A],
            &[BEARER_A, X_EMPTY],
            &[X_A, X_B, X_A],
            &[X_EMPTY, X_A, BEARER_A],
        ] {
            assert_eq!(find(&all(), different), Credential::Malformed, "{different:?}");
        }
    }

    fn schemes() -> impl Strategy<Value = Schemes> {
        any::<[bool; 5]>().prop_map(|[bearer, key, x_api_key, basic, is_own]| {
            let own = [Own::Scheme("Token".into()), Own::Header("X-My-Key".into())];
            let own = if is_own { own.into() } else { Vec::new() };
            Schemes { bearer, key, x_api_key, basic, own }
        })
    }

    fn name() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(
            &["Authorization", "authorization", "X-API-Key", "X-My-Key", "cookie"][..],
        )
    }

    /// Text as in headers, with so few keys that some are equal, and any bytes.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "(?i)basic (YTo=|YTp4|Yjo=|YTo|YQ==|)".prop_map(Vec::from),
            "[ \t]{0,2}((?i)bearer|key|token)[ \t]{1,2}[ab]([ \t,\n\u{0}é]{0,2}|[ \t])"
                .prop_map(Vec::from),
            "[ \t]?[ab][ \t]?".prop_map(Vec::from),
            "[ -~\t\n]{0,20}".prop_map(Vec::from),
            proptest::collection::vec(any::<u8>(), 0..40),
        ]
    }

    /// A value that owns its text.
    #[derive(Clone, Debug)]
    enum Given {
        Text(Vec<u8>),
        Null,
        Other,
    }

    type Headers = Vec<(&'static str, Given)>;

    fn headers() -> impl Strategy<Value = Headers> {
        let value = prop_oneof![
            9 => text().prop_map(Given::Text),
            2 => Just(Given::Null),
            1 => Just(Given::Other),
        ];
        proptest::collection::vec((name(), value), 0..5)
    }

    fn borrowed(headers: &Headers) -> Vec<(&str, HeaderValue<'_>)> {
        let borrowed = headers.iter().map(|(name, value)| match value {
            Given::Text(text) => (*name, HeaderValue::Text(text)),
            Given::Null => (*name, HeaderValue::Null),
            Given::Other => (*name, HeaderValue::Other),
        });
        borrowed.collect()
    }

    proptest! {
        #[test]
        fn the_order_of_headers_does_not_matter(
            schemes in schemes(),
            (headers, shuffled) in headers().prop_flat_map(|headers| {
                (Just(headers.clone()), Just(headers).prop_shuffle())
            }),
        ) {
            prop_assert_eq!(
                find(&schemes, &borrowed(&headers)),
                find(&schemes, &borrowed(&shuffled))
            );
        }

        #[test]
        fn whatever_is_malformed_stays_so(before in headers(), after in headers()) {
            if find(&all(), &borrowed(&before)) == Credential::Malformed {
                let both = [borrowed(&before), borrowed(&after)].concat();
                prop_assert_eq!(find(&all(), &both), Credential::Malformed);
            }
        }

        #[test]
        fn keys_are_printable_parts_of_what_was_given(
            schemes in schemes(),
            headers in headers(),
        ) {
            if let Credential::Key(key) = find(&schemes, &borrowed(&headers)) {
                prop_assert!(!key.is_empty());
                prop_assert!(key.iter().all(|b| matches!(b, 0x21..=0x7e) && *b != b','));
                let is_part = matches!(key, Cow::Owned(_)) || headers.iter().any(|(_, value)| match value {
                    Given::Text(text) => {
                        let (text, key) = (text.as_ptr_range(), key.as_ptr_range());
                        text.start <= key.start && key.end <= text.end
                    }
                    _ => false,
                });
                prop_assert!(is_part);
            }
        }

        #[test]
        fn any_bytes_at_all_are_taken_without_panic(
            schemes in schemes(),
            name in proptest::collection::vec(any::<u8>(), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for name in [&name[..], b"authorization", b"x-api-key"] {
                let mut finder = Finder::new(&schemes);
                finder.add(name, HeaderValue::Text(&value));
                let is_relevant = finder.is_relevant(name);
                let was_added = finder.credential() != Credential::Missing;
                let is_blank = trimmed(&value).is_empty();
                prop_assert!(!is_relevant || was_added || is_blank);
            }
        }

        #[test]
        fn tokens_are_found_as_they_are(
            text in "[!-+.-~-]{1,100}",
            case in any::<u8>(),
            [before, between, after] in ["[ \t]{0,3}", "[ \t]{1,3}", "[ \t]{0,3}"],
        ) {
            let scheme: String = "bearer"
                .chars()
                .enumerate()
                .map(|(at, c)| if case >> at & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();
            let value = format!("{before}{scheme}{between}{text}{after}");
            prop_assert_eq!(authorization(&all(), value.as_bytes()), key(text.as_bytes()));
            let value = format!("{before}{text}{after}");
            prop_assert_eq!(x_api_key(value.as_bytes()), key(text.as_bytes()));
        }
    }
}
