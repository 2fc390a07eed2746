//! The headers of an answer: challenges (RFC 6750 and 9110), `Retry-After`, and the fields of the
//! IETF's draft for rate limits. Values are printable ASCII.

use crate::policy::header::Schemes;
use crate::policy::verdict::Answer;

/// The facts of an answer that headers tell. Times are in microseconds.
pub struct Facts<'a> {
    pub answer: Answer,
    /// The scopes that the request needed.
    pub missing_scopes: Option<&'a str>,
    pub retry_after: Option<i64>,
    pub limit: Option<&'a Limit>,
    /// Whether the answer shows a key.
    pub shows_key: bool,
}

/// The limit that is used up first.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub name: String,
    pub calls: i64,
    pub window: Option<i64>,
    pub remaining: i64,
    pub reset: Option<i64>,
    /// What it counts, unless that is calls.
    pub unit: Option<String>,
}

pub type Header = (&'static str, String);

pub fn headers(facts: &Facts, schemes: &Schemes) -> Vec<Header> {
    let mut headers = Vec::new();
    let is_refusal = facts.answer != Answer::Ok;
    if let Some(challenges) = challenges(facts, schemes) {
        headers.push(("WWW-Authenticate", challenges));
    }
    if let Some(wait) = facts.retry_after.filter(|_| is_refusal) {
        headers.push(("Retry-After", seconds(wait).max(1).to_string()));
    }
    if let Some(limit) = facts.limit {
        // A client should not be told to wait for longer than Retry-After says, nor for less.
        let refused_for = facts.retry_after.filter(|_| facts.answer == Answer::RateLimited);
        headers.extend(limit.headers(refused_for.map(|wait| wait.max(1)).or(limit.reset)));
    }
    if is_refusal || facts.shows_key {
        headers.push(("Cache-Control", "no-store".into()));
    }
    headers
}

impl Limit {
    /// The fields of the draft. Their numbers are integers of structured fields. No more than the
    /// remaining calls pass within `time`.
    fn headers(&self, time: Option<i64>) -> [Header; 2] {
        let name = quoted(&self.name);
        let number = |value: i64| value.clamp(0, MAX_INTEGER);
        let (calls, remaining) = (number(self.calls), number(self.remaining));
        // A window in whole seconds. Of another one nothing is told: any number would be wrong.
        let window = self.window.filter(|window| *window > 0 && window % 1_000_000 == 0);
        let parameter = |name: &str, value: Option<i64>| {
            value.map_or_else(String::new, |value| format!(";{name}={}", seconds(value)))
        };
        let unit = self.unit.as_deref().map(|unit| format!(";qu={}", quoted(unit)));
        let unit = unit.unwrap_or_default();
        let (window, reset) = (parameter("w", window), parameter("t", time));
        [
            ("RateLimit-Policy", format!("{name};q={calls}{unit}{window}")),
            ("RateLimit", format!("{name};r={remaining}{reset}")),
        ]
    }
}

const REALM: &str = "realm=\"api\"";

/// The greatest integer of structured fields.
const MAX_INTEGER: i64 = 999_999_999_999_999;
/// The longest name of a limit, and list of scopes, that a header tells.
const MAX_NAME_LEN: usize = 100;
const MAX_SCOPES_LEN: usize = 1000;

/// The challenge of each accepted scheme. A request without credentials learns no error code. RFC 6750
/// requires a parameter, and RFC 7617 a realm.
fn challenges(facts: &Facts, schemes: &Schemes) -> Option<String> {
    let error = match facts.answer {
        Answer::MissingAuthorization => "",
        Answer::InvalidAuthorization => "error=\"invalid_request\"",
        Answer::InvalidApiKey
        | Answer::TokenInvalid
        | Answer::TokenExpired
        | Answer::Revoked
        | Answer::Expired
        | Answer::Disabled
        | Answer::Idle => "error=\"invalid_token\"",
        Answer::InsufficientScope => "error=\"insufficient_scope\"",
        _ => return None,
    };
    let scope = facts.missing_scopes.filter(|_| facts.answer == Answer::InsufficientScope);
    let scope = scope.and_then(scope_list).map(|list| format!("scope=\"{list}\""));
    let challenges: Vec<String> = schemes
        .challenges()
        .map(|scheme| {
            let parameters = match scheme {
                "Basic" => vec![REALM, "charset=\"UTF-8\""],
                _ => [error, scope.as_deref().unwrap_or_default()]
                    .into_iter()
                    .filter(|parameter| !parameter.is_empty())
                    .collect(),
            };
            let parameters = if parameters.is_empty() { vec![REALM] } else { parameters };
            format!("{scheme} {}", parameters.join(", "))
        })
        .collect();
    (!challenges.is_empty()).then(|| challenges.join(", "))
}

/// An expression of scopes as RFC 6750 lists them: separated by spaces. Alternatives can't be
/// told, so they are all listed. `None` if a name is not in ASCII, and if there are too many.
fn scope_list(expression: &str) -> Option<String> {
    let is_operator = |c: char| matches!(c, '&' | '|' | '(' | ')' | ' ');
    let names: Vec<&str> = expression.split(is_operator).filter(|name| !name.is_empty()).collect();
    let is_safe =
        |name: &&str| name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    let list = names.join(" ");
    let is_told = (1..=MAX_SCOPES_LEN).contains(&list.len()) && names.iter().all(is_safe);
    is_told.then_some(list)
}

/// In whole seconds, rounded up.
pub(super) fn seconds(microseconds: i64) -> i64 {
    microseconds.max(0).saturating_add(999_999) / 1_000_000
}

/// A string of structured fields (RFC 9651). Other characters than printable ASCII become `?`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars().take(MAX_NAME_LEN) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepting(names: &[&str]) -> Schemes {
        Schemes::parse(names.iter().map(|name| name.as_bytes())).unwrap()
    }

    fn refused(answer: Answer) -> Facts<'static> {
        Facts { answer, missing_scopes: None, retry_after: None, limit: None, shows_key: false }
    }

    fn value(facts: &Facts, schemes: &[&str], name: &str) -> Option<String> {
        headers(facts, &accepting(schemes))
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    #[test]
    fn challenges_name_the_accepted_schemes_only() {
        let challenge = |answer, schemes: &[&str]| {
            value(&refused(answer), schemes, "WWW-Authenticate").unwrap_or_default()
        };
        let missing = Answer::MissingAuthorization;
        assert_eq!(challenge(missing, &["bearer"]), "Bearer realm=\"api\"");
        assert_eq!(
            challenge(missing, &["key", "scheme:Token"]),
            "Key realm=\"api\", Token realm=\"api\""
        );
        assert_eq!(challenge(missing, &["x_api_key", "header:X-My-Key"]), "");
        assert_eq!(challenge(missing, &["basic"]), "Basic realm=\"api\", charset=\"UTF-8\"");
        let invalid = Answer::InvalidApiKey;
        assert_eq!(
            challenge(invalid, &["bearer", "key"]),
            "Bearer error=\"invalid_token\", Key error=\"invalid_token\""
        );
        assert_eq!(
            challenge(Answer::InvalidAuthorization, &["bearer"]),
            "Bearer error=\"invalid_request\""
        );
        for other in [Answer::Ok, Answer::RateLimited, Answer::IpNotAllowed, Answer::Unavailable] {
            assert_eq!(challenge(other, &["bearer"]), "", "{other:?}");
        }
    }

    #[test]
    fn a_challenge_lists_the_scopes_that_were_needed() {
        let challenge = |missing| {
            let facts =
                Facts { missing_scopes: Some(missing), ..refused(Answer::InsufficientScope) };
            value(&facts, &["bearer"], "WWW-Authenticate").unwrap()
        };
        let with = |list: &str| format!("Bearer error=\"insufficient_scope\", scope=\"{list}\"");
        assert_eq!(challenge("images:write"), with("images:write"));
        assert_eq!(challenge("a:b & (c | d:*)"), with("a:b c d:*"));
        let without = "Bearer error=\"insufficient_scope\"";
        for odd in ["", "é", "a\"b", "a\\b", "a\r\nb"] {
            assert_eq!(challenge(odd), without, "{odd:?}");
        }
    }

    #[test]
    fn limits_are_told_whether_or_not_they_refuse() {
        let limit = Limit {
            name: "burst".into(),
            calls: 100,
            window: Some(60_000_000),
            remaining: 0,
            reset: Some(1_500_000),
            unit: None,
        };
        let facts = Facts {
            retry_after: Some(600_000),
            limit: Some(&limit),
            ..refused(Answer::RateLimited)
        };
        let value = |facts, name| value(facts, &["bearer"], name);
        assert_eq!(value(&facts, "Retry-After").as_deref(), Some("1"));
        assert_eq!(value(&facts, "RateLimit-Policy").as_deref(), Some("\"burst\";q=100;w=60"));
        assert_eq!(value(&facts, "RateLimit").as_deref(), Some("\"burst\";r=0;t=1"));
        assert_eq!(value(&facts, "Cache-Control").as_deref(), Some("no-store"));
        let odd = Limit {
            name: "a\"b\\é\n".into(),
            window: None,
            reset: None,
            unit: Some("a\"b".into()),
            ..limit
        };
        let passed = Facts { limit: Some(&odd), ..refused(Answer::Ok) };
        assert_eq!(
            value(&passed, "RateLimit-Policy").as_deref(),
            Some("\"a\\\"b\\\\??\";q=100;qu=\"a\\\"b\"")
        );
        assert_eq!(value(&passed, "RateLimit").as_deref(), Some("\"a\\\"b\\\\??\";r=0"));
        assert_eq!(value(&passed, "Cache-Control"), None);
        assert_eq!(value(&passed, "Retry-After"), None);
    }

    #[test]
    fn a_window_is_told_in_whole_seconds_or_not_at_all() {
        let policy = |window| {
            let limit = Limit {
                name: "l".into(),
                calls: 5,
                window: Some(window),
                remaining: 1,
                reset: None,
                unit: None,
            };
            limit.headers(None)[0].1.clone()
        };
        assert_eq!(policy(1_000_000), "\"l\";q=5;w=1");
        assert_eq!(policy(86_400_000_000), "\"l\";q=5;w=86400");
        for odd in [1_000, 1_500_000, 0, -1_000_000] {
            assert_eq!(policy(odd), "\"l\";q=5", "{odd}");
        }
    }

    proptest! {
        #[test]
        fn values_are_printable_ascii_and_short(
            (name, scopes) in (any::<String>(), any::<String>()),
            numbers in any::<[i64; 5]>(),
            (answer, scheme) in (0..Answer::ALL.len(), any::<bool>()),
        ) {
            let limit = Limit {
                name: name.repeat(100),
                calls: numbers[0],
                window: Some(numbers[1]),
                remaining: numbers[2],
                reset: Some(numbers[3]),
                unit: Some(scopes.repeat(100)),
            };
            let facts = Facts {
                answer: Answer::ALL[answer],
                missing_scopes: Some(&scopes),
                retry_after: Some(numbers[4]),
                limit: Some(&limit),
                shows_key: false,
            };
            let schemes = if scheme { accepting(&["bearer", "basic"]) } else { Schemes::default() };
            for (name, value) in headers(&facts, &schemes) {
                prop_assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{name}: {value}");
                prop_assert!(value.len() < 4000, "{name}");
            }
        }
    }

    #[test]
    fn an_answer_with_a_key_is_not_stored() {
        let facts = Facts { shows_key: true, ..refused(Answer::Ok) };
        assert_eq!(value(&facts, &["bearer"], "Cache-Control").as_deref(), Some("no-store"));
    }
}
