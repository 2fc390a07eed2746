//! The API key in the HTTP headers of a request.
//!
//! Servers, proxies and libraries disagree on what a doubtful header means, and attackers exploit
//! such differences. So each header has one form in which it holds a key. Any other form is
//! malformed: nothing is repaired or guessed.

/// The headers in which a keyspace accepts keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schemes {
    /// `Authorization: Bearer …`
    pub bearer: bool,
    /// `Authorization: Key …`
    pub key: bool,
    /// `X-API-Key: …`
    pub x_api_key: bool,
}

impl Default for Schemes {
    fn default() -> Self {
        Schemes { bearer: true, key: true, x_api_key: true }
    }
}

impl Schemes {
    /// All of them, by name.
    pub const NAMES: [&'static str; 3] = ["bearer", "key", "x_api_key"];

    const NONE: Schemes = Schemes { bearer: false, key: false, x_api_key: false };

    /// The schemes with these names, at least one. `None` for an unknown name.
    pub fn parse<'n>(names: impl Iterator<Item = &'n [u8]>) -> Option<Schemes> {
        let mut schemes = Schemes::NONE;
        for name in names {
            match name {
                b"bearer" => schemes.bearer = true,
                b"key" => schemes.key = true,
                b"x_api_key" => schemes.x_api_key = true,
                _ => return None,
            }
        }
        (schemes != Schemes::NONE).then_some(schemes)
    }

    /// The challenge for `WWW-Authenticate`, if a scheme of `Authorization` is accepted.
    pub fn challenge(self) -> Option<&'static str> {
        match self {
            Schemes { bearer: true, .. } => Some("Bearer"),
            Schemes { key: true, .. } => Some("Key"),
            _ => None,
        }
    }

    /// The header that this name stands for, if keys are accepted in it.
    #[inline]
    fn header(self, name: &[u8]) -> Option<Header> {
        if (self.bearer || self.key) && name.eq_ignore_ascii_case(b"authorization") {
            Some(Header::Authorization)
        } else if self.x_api_key && name.eq_ignore_ascii_case(b"x-api-key") {
            Some(Header::XApiKey)
        } else {
            None
        }
    }

    /// The token of an `Authorization` header.
    fn authorized(self, value: &[u8]) -> Option<&[u8]> {
        let (scheme, rest) = value.split_at(value.iter().position(|b| is_blank(*b))?);
        let is_accepted = self.bearer && scheme.eq_ignore_ascii_case(b"bearer")
            || self.key && scheme.eq_ignore_ascii_case(b"key");
        if is_accepted { token(trimmed_start(rest)) } else { None }
    }
}

#[derive(PartialEq, Eq)]
enum Header {
    Authorization,
    XApiKey,
}

pub const SCHEMES_RULE: &str = "must be one or more of bearer, key and x_api_key";

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
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub enum Credential<'a> {
    Missing,
    /// A header that is for keys has a value, but there is not one key in an accepted form.
    Malformed,
    Key(&'a [u8]),
}

/// Finds the key among headers that are added one value at a time, in any order.
pub struct Finder<'a> {
    schemes: Schemes,
    found: Credential<'a>,
    /// Whether there was an empty value.
    saw_blank: bool,
}

impl<'a> Finder<'a> {
    #[inline]
    pub fn new(schemes: Schemes) -> Self {
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
                Header::XApiKey => token(trimmed(text)),
            },
        };
        self.found = match (self.found, token) {
            (Credential::Missing, Some(token)) => Credential::Key(token),
            (Credential::Key(known), Some(token)) if known == token => self.found,
            // With two different keys, another server might use the other one.
            _ => Credential::Malformed,
        };
    }

    #[inline]
    pub fn credential(&self) -> Credential<'a> {
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

    const ALL: Schemes = Schemes { bearer: true, key: true, x_api_key: true };
    const BEARER: Schemes = Schemes { bearer: true, ..Schemes::NONE };
    const KEY: Schemes = Schemes { key: true, ..Schemes::NONE };
    const X_API_KEY: Schemes = Schemes { x_api_key: true, ..Schemes::NONE };

    fn find<'a>(schemes: Schemes, headers: &[(&str, HeaderValue<'a>)]) -> Credential<'a> {
        let mut finder = Finder::new(schemes);
        for (name, value) in headers {
            finder.add(name.as_bytes(), *value);
        }
        finder.credential()
    }

    fn authorization(schemes: Schemes, value: &[u8]) -> Credential<'_> {
        find(schemes, &[("Authorization", HeaderValue::Text(value))])
    }

    fn x_api_key(value: &[u8]) -> Credential<'_> {
        find(ALL, &[("X-API-Key", HeaderValue::Text(value))])
    }

    #[test]
    fn schemes_by_name() {
        let parse = |names: &[&str]| Schemes::parse(names.iter().map(|name| name.as_bytes()));
        assert_eq!(parse(&["bearer", "key", "x_api_key"]), Some(Schemes::default()));
        assert_eq!(parse(&["bearer"]), Some(BEARER));
        assert_eq!(parse(&["key", "key"]), Some(KEY));
        assert_eq!(parse(&["x_api_key"]), Some(X_API_KEY));
        for bad in [&[][..], &[""], &["Bearer"], &["basic"], &["bearer", "x-api-key"], &["key "]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(Schemes::default(), ALL);
        let challenges = [ALL, BEARER, KEY, X_API_KEY].map(Schemes::challenge);
        assert_eq!(challenges, [Some("Bearer"), Some("Bearer"), Some("Key"), None]);
    }

    #[test]
    fn relevant_headers_are_those_of_accepted_schemes() {
        for (schemes, authorization, x_api_key) in [
            (ALL, true, true),
            (BEARER, true, false),
            (KEY, true, false),
            (X_API_KEY, false, true),
            (Schemes::NONE, false, false),
        ] {
            let finder = Finder::new(schemes);
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
            assert_eq!(authorization(ALL, good.as_bytes()), Credential::Key(b"k_1"), "{good:?}");
        }
        for good in ["k_1", " k_1", "k_1\t", " \tk_1\t "] {
            assert_eq!(x_api_key(good.as_bytes()), Credential::Key(b"k_1"), "{good:?}");
        }
        let graphic: Vec<u8> = (b'!'..=b'~').filter(|b| *b != b',').collect();
        assert_eq!(x_api_key(&graphic), Credential::Key(&graphic));
        let bearer = [b"Bearer ", &graphic[..]].concat();
        assert_eq!(authorization(ALL, &bearer), Credential::Key(&graphic));
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
            assert_eq!(authorization(ALL, bad.as_bytes()), Credential::Malformed, "{bad:?}");
        }
        assert_eq!(authorization(ALL, b"Bearer a\xff"), Credential::Malformed);
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
            assert_eq!(authorization(ALL, blank.as_bytes()), Credential::Missing, "{blank:?}");
        }
        // A scheme without a key is still malformed.
        assert_eq!(authorization(ALL, b"Bearer "), Credential::Malformed);
    }

    #[test]
    fn schemes_that_are_not_accepted() {
        assert_eq!(authorization(BEARER, b"Bearer a"), Credential::Key(b"a"));
        assert_eq!(authorization(BEARER, b"Key a"), Credential::Malformed);
        assert_eq!(authorization(KEY, b"Key a"), Credential::Key(b"a"));
        assert_eq!(authorization(KEY, b"Bearer a"), Credential::Malformed);
        // Headers that no accepted scheme uses are ignored.
        assert_eq!(authorization(X_API_KEY, b"Bearer a"), Credential::Missing);
        assert_eq!(authorization(X_API_KEY, b"Basic azox"), Credential::Missing);
        let both = [
            ("authorization", HeaderValue::Text(b"Basic azox")),
            ("x-api-key", HeaderValue::Text(b"a")),
        ];
        assert_eq!(find(X_API_KEY, &both), Credential::Key(b"a"));
        assert_eq!(find(ALL, &both), Credential::Malformed);
        assert_eq!(find(KEY, &[("x-api-key", HeaderValue::Text(b"a"))]), Credential::Missing);
        assert_eq!(find(Schemes::NONE, &both), Credential::Missing);
    }

    #[test]
    fn values_that_are_no_text() {
        assert_eq!(find(ALL, &[]), Credential::Missing);
        assert_eq!(find(ALL, &[("cookie", HeaderValue::Text(b"a"))]), Credential::Missing);
        assert_eq!(find(ALL, &[("cookie", HeaderValue::Other)]), Credential::Missing);
        for name in ["authorization", "x-api-key"] {
            assert_eq!(find(ALL, &[(name, HeaderValue::Null)]), Credential::Missing);
            assert_eq!(
                find(ALL, &[(name, HeaderValue::Null), (name, HeaderValue::Null)]),
                Credential::Missing
            );
            assert_eq!(find(ALL, &[(name, HeaderValue::Other)]), Credential::Malformed);
            let beside_null = [(name, HeaderValue::Null), ("X-Api-Key", HeaderValue::Text(b"a"))];
            assert_eq!(find(ALL, &beside_null), Credential::Key(b"a"));
            let beside_other = [("X-Api-Key", HeaderValue::Text(b"a")), (name, HeaderValue::Other)];
            assert_eq!(find(ALL, &beside_other), Credential::Malformed);
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
            assert_eq!(find(ALL, same), Credential::Key(b"a"), "{same:?}");
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
            assert_eq!(find(ALL, different), Credential::Malformed, "{different:?}");
        }
    }

    fn schemes() -> impl Strategy<Value = Schemes> {
        any::<[bool; 3]>().prop_map(|[bearer, key, x_api_key]| Schemes { bearer, key, x_api_key })
    }

    fn name() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(&["Authorization", "authorization", "X-API-Key", "cookie"][..])
    }

    /// Text as in headers, with so few keys that some are equal, and any bytes.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[ \t]{0,2}((?i)bearer|key)[ \t]{1,2}[ab]([ \t,\n\u{0}é]{0,2}|[ \t])"
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
                find(schemes, &borrowed(&headers)),
                find(schemes, &borrowed(&shuffled))
            );
        }

        #[test]
        fn whatever_is_malformed_stays_so(before in headers(), after in headers()) {
            if find(ALL, &borrowed(&before)) == Credential::Malformed {
                let all = [borrowed(&before), borrowed(&after)].concat();
                prop_assert_eq!(find(ALL, &all), Credential::Malformed);
            }
        }

        #[test]
        fn keys_are_printable_parts_of_what_was_given(
            schemes in schemes(),
            headers in headers(),
        ) {
            if let Credential::Key(key) = find(schemes, &borrowed(&headers)) {
                prop_assert!(!key.is_empty());
                prop_assert!(key.iter().all(|b| matches!(b, 0x21..=0x7e) && *b != b','));
                let is_part = headers.iter().any(|(_, value)| match value {
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
            let mut finder = Finder::new(schemes);
            for name in [&name[..], b"authorization", b"x-api-key"] {
                finder.add(name, HeaderValue::Text(&value));
                let was_added = finder.credential() != Credential::Missing;
                let is_blank = trimmed(&value).is_empty();
                prop_assert!(!finder.is_relevant(name) || was_added || is_blank);
            }
        }

        #[test]
        fn tokens_are_found_as_they_are(
            key in "[!-+.-~-]{1,100}",
            case in any::<u8>(),
            [before, between, after] in ["[ \t]{0,3}", "[ \t]{1,3}", "[ \t]{0,3}"],
        ) {
            let scheme: String = "bearer"
                .chars()
                .enumerate()
                .map(|(at, c)| if case >> at & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();
            let value = format!("{before}{scheme}{between}{key}{after}");
            prop_assert_eq!(authorization(ALL, value.as_bytes()), Credential::Key(key.as_bytes()));
            let value = format!("{before}{key}{after}");
            prop_assert_eq!(x_api_key(value.as_bytes()), Credential::Key(key.as_bytes()));
        }
    }
}
