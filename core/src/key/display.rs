//! How a key is shown without showing the key itself. The template `{prefix}...{end:4}` gives
//! `ks_live_...9f8a`.

use super::format::{CHECKSUM_LEN, MAX_PREFIX_LEN, Parts};

/// The templates of a keyspace that has no others.
pub const DEFAULT_PREFIX: &str = "{prefix}{secret:5}";
pub const DEFAULT_SNIPPET: &str = "{prefix}...{end:4}";

/// The most characters of the secret that a template may show: 48 of its 256 bits.
const MAX_SECRET: usize = 8;
const RANDOM: std::ops::RangeInclusive<usize> = 4..=32;
const MAX_TEMPLATE_LEN: usize = 64;

/// The most characters that a template may make, with the longest prefix.
const MAX_SHOWN_LEN: usize = 64;
const MAX_ID_LEN: usize = 100;

/// The longest text that a template can make.
fn longest(pieces: &[Piece]) -> usize {
    let length = |piece: &Piece| match piece {
        Piece::Literal(text) => text.chars().count(),
        Piece::Prefix => MAX_PREFIX_LEN,
        Piece::Secret(count) | Piece::End(count) | Piece::Random(count) => *count,
    };
    pieces.iter().map(length).sum()
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Literal(&'a str),
    Prefix,
    /// The first characters of the secret.
    Secret(usize),
    /// The last characters of the key, which belong to its checksum.
    End(usize),
    /// Random characters, which say nothing about the key.
    Random(usize),
}

fn pieces(template: &str) -> Option<Vec<Piece<'_>>> {
    if template.chars().count() > MAX_TEMPLATE_LEN || template.chars().any(char::is_control) {
        return None;
    }
    let mut pieces = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let Some((literal, after)) = rest.split_once('{') else {
            pieces.push(Piece::Literal(rest));
            break;
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        let (name, after) = after.split_once('}')?;
        let (name, count) = match name.split_once(':') {
            None => (name, None),
            Some((name, count)) => (name, Some(count.parse::<usize>().ok()?)),
        };
        pieces.push(match (name, count) {
            ("prefix", None) => Piece::Prefix,
            ("secret", Some(count @ 1..=MAX_SECRET)) => Piece::Secret(count),
            ("end", Some(count @ 1..=CHECKSUM_LEN)) => Piece::End(count),
            ("random", Some(count)) if RANDOM.contains(&count) => Piece::Random(count),
            _ => return None,
        });
        rest = after;
    }
    let has_brace = |piece: &Piece| matches!(piece, Piece::Literal(text) if text.contains('}'));
    (!pieces.iter().any(has_brace)).then_some(pieces)
}

/// Whether a text is a template to show keys with. It must have no random parts, because a key
/// must always look the same.
pub fn is_template(template: &str) -> bool {
    let random = |piece: &Piece| matches!(piece, Piece::Random(_));
    pieces(template).is_some_and(|pieces| {
        !pieces.is_empty() && !pieces.iter().any(random) && longest(&pieces) <= MAX_SHOWN_LEN
    })
}

pub const TEMPLATE_RULE: &str = "must make at most 64 characters, of {prefix}, {secret:1} to {secret:8}, {end:1} to {end:6} and text";

/// Whether a text is a template to make ids with. It must have a random part, and no part of a
/// key.
pub fn is_id_template(template: &str) -> bool {
    pieces(template).is_some_and(|pieces| {
        pieces.iter().any(|piece| matches!(piece, Piece::Random(_)))
            && pieces.iter().all(|piece| matches!(piece, Piece::Random(_) | Piece::Literal(_)))
            && longest(&pieces) <= MAX_ID_LEN
    })
}

pub const ID_TEMPLATE_RULE: &str = "must make at most 100 characters, of text and {random:4} to {random:32}, the latter once at least";

/// Shows a key. The result is empty if the text is not a template.
pub fn show(template: &str, parts: Parts<'_>) -> String {
    fill(template, |piece| match piece {
        Piece::Prefix => parts.prefix.into(),
        Piece::Secret(count) => parts.secret[..*count].into(),
        Piece::End(count) => parts.checksum[CHECKSUM_LEN - count..].into(),
        Piece::Literal(_) | Piece::Random(_) => String::new(),
    })
}

/// Makes an id with a source of random characters.
pub fn id<E>(template: &str, random: impl Fn(usize) -> Result<String, E>) -> Result<String, E> {
    let mut failure = None;
    let id = fill(template, |piece| match piece {
        Piece::Random(count) => random(*count).unwrap_or_else(|error| {
            failure = Some(error);
            String::new()
        }),
        _ => String::new(),
    });
    failure.map_or(Ok(id), Err)
}

fn fill(template: &str, mut with: impl FnMut(&Piece) -> String) -> String {
    let pieces = pieces(template).unwrap_or_default();
    let text = |piece: &Piece| match piece {
        Piece::Literal(text) => (*text).into(),
        other => with(other),
    };
    pieces.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::format::parse;
    use crate::key::secret;

    #[test]
    fn the_usual_ways() {
        let key = secret::generate("ks_live_").unwrap();
        let parts = parse(key.as_bytes()).unwrap();
        assert_eq!(show(DEFAULT_PREFIX, parts), key[..13]);
        assert_eq!(show(DEFAULT_SNIPPET, parts), format!("ks_live_...{}", &key[key.len() - 4..]));
        assert_eq!(show("key ending in {end:6}", parts), format!("key ending in {}", &key[51..]));
    }

    #[test]
    fn ids() {
        let digits = |count| Ok::<_, ()>("7".repeat(count));
        assert_eq!(id("key_{random:5}", digits), Ok("key_77777".into()));
        assert_eq!(id("key_{random:5}", |_| Err("none")), Err("none"));
    }

    #[test]
    fn only_templates_that_show_little_are_accepted() {
        for good in [DEFAULT_PREFIX, DEFAULT_SNIPPET, "{prefix}", "a key", "{secret:8}é"] {
            assert!(is_template(good), "{good}");
        }
        for bad in [
            "",
            "{",
            "}",
            "{}",
            "{prefix",
            "prefix}",
            "{secret}",
            "{secret:0}",
            "{secret:9}",
            "{end:7}",
            "{secret:-1}",
            "{secret:x}",
            "{random:8}",
            "{other}",
            "a\nb",
            &"x".repeat(65),
            "{{prefix}}",
            "{prefix}{prefix}{secret:1}",
        ] {
            assert!(!is_template(bad), "{bad}");
        }
        assert!(is_template(&"ä".repeat(64)) && !is_template(&"ä".repeat(65)));
        assert!(is_id_template("key_{random:4}") && is_id_template("{random:32}"));
        assert!(!is_id_template(&"{random:32}".repeat(4)));
        for bad in ["", "key_", "{random:3}", "{random:33}", "{prefix}{random:8}", "{random}"] {
            assert!(!is_id_template(bad), "{bad}");
        }
    }
}
