//! Short lists of names with values, as a record holds them: units with their amounts, and tags
//! with their texts. A list is bytes, so that a record can borrow it.
//!
//! Each entry has the length of its name in a byte, the name, the length of its value in two bytes,
//! and the value. The value of a unit is a number of four bytes, the lowest first.

/// The most units of a request: `calls`, and eight others.
pub const MOST_UNITS: usize = 9;
/// The most tags of a request.
pub const MOST_TAGS: usize = 8;
/// The most tags that a keyspace's totals are kept by.
pub const MOST_TOTALLED: usize = 4;
/// The most characters of a tag's value.
pub const MOST_VALUE: usize = 64;
/// The most bytes of a value: so many characters in any encoding.
const MOST_VALUE_BYTES: usize = 4 * MOST_VALUE;
/// The most bytes of a name.
const MOST_NAME: usize = 31;
const ENTRY: usize = 3;

/// The most bytes of a list of units, and of one of tags.
pub const MOST_UNITS_BYTES: usize = MOST_UNITS * (ENTRY + MOST_NAME + 4);
pub const MOST_TAGS_BYTES: usize = 1000;

/// Whether this is the name of a unit or tag: `[a-z][a-z0-9_-]{0,30}`.
pub fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_lowercase)
        && name.len() <= MOST_NAME
        && name.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Adds an entry. A name or value that is too long is left out.
pub fn put(list: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if let (Ok(length), Ok(size)) = (u8::try_from(name.len()), u16::try_from(value.len())) {
        list.reserve(ENTRY + name.len() + value.len());
        list.push(length);
        list.extend_from_slice(name);
        list.extend_from_slice(&size.to_le_bytes());
        list.extend_from_slice(value);
    }
}

/// Adds a unit.
pub fn put_unit(list: &mut Vec<u8>, name: &[u8], amount: u32) {
    put(list, name, &amount.to_le_bytes());
}

/// The entries of a list. It ends at the first one that is not whole.
pub fn entries(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        let (size, after) = after.split_first_chunk()?;
        let (value, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*size)))?;
        rest = after;
        Some((name, value))
    })
}

/// The units of a list.
pub fn units(list: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    entries(list)
        .filter_map(|(name, value)| Some((name, u32::from_le_bytes(value.try_into().ok()?))))
}

/// The value of a name.
pub fn value<'a>(list: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entries(list).find(|(other, _)| *other == name).map(|(_, value)| value)
}

/// Whether a server can have made this list of units.
pub fn is_units(list: &[u8]) -> bool {
    is_whole(list)
        && entries(list).count() <= MOST_UNITS
        && entries(list).all(|(_, value)| value.len() == 4)
}

/// Whether a server can have made this list of tags. Whether the values are texts of the database
/// is not looked at.
pub fn is_tags(list: &[u8]) -> bool {
    is_whole(list)
        && list.len() <= MOST_TAGS_BYTES
        && entries(list).count() <= MOST_TAGS
        && entries(list).all(|(_, value)| (1..=MOST_VALUE_BYTES).contains(&value.len()))
}

/// Whether a list has nothing but entries, each with another name.
fn is_whole(list: &[u8]) -> bool {
    let length: usize = entries(list).map(|(name, value)| ENTRY + name.len() + value.len()).sum();
    let is_first = |n: usize, name: &[u8]| entries(list).take(n).all(|(other, _)| other != name);
    length == list.len()
        && entries(list).enumerate().all(|(n, (name, _))| is_name(name) && is_first(n, name))
}

/// A list with the entries of another one in place of its own of the same names. Of what would be
/// too many units, those with the longest names are left out, as `merged_units` in SQL does.
pub fn merged(list: &[u8], over: &[u8]) -> Vec<u8> {
    let mut both = over.to_vec();
    let room = MOST_UNITS.saturating_sub(entries(over).count());
    let mut kept: Vec<_> = entries(list).filter(|(name, _)| value(over, name).is_none()).collect();
    kept.sort_unstable_by_key(|(name, _)| (name.len(), *name));
    kept.iter().take(room).for_each(|(name, value)| put(&mut both, name, value));
    both
}

/// A list of units as JSON.
pub fn units_json(list: &[u8]) -> Vec<u8> {
    object(units(list), |json, amount| json.extend_from_slice(amount.to_string().as_bytes()))
}

/// A list of tags as JSON, in the encoding of the values: each of PostgreSQL's has ASCII in it.
pub fn tags_json(list: &[u8]) -> Vec<u8> {
    object(entries(list), |json, value| {
        json.push(b'"');
        for byte in value {
            match byte {
                b'"' | b'\\' => json.extend_from_slice(&[b'\\', *byte]),
                0..0x20 => json.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => json.push(*byte),
            }
        }
        json.push(b'"');
    })
}

fn object<'a, T>(
    entries: impl Iterator<Item = (&'a [u8], T)>,
    value: impl Fn(&mut Vec<u8>, T),
) -> Vec<u8> {
    let mut json = vec![b'{'];
    for (n, (name, entry)) in entries.enumerate() {
        json.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
        json.extend_from_slice(name);
        json.extend_from_slice(b"\":");
        value(&mut json, entry);
    }
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn list(units: &BTreeMap<String, u32>) -> Vec<u8> {
        let mut list = Vec::new();
        units.iter().for_each(|(name, amount)| put_unit(&mut list, name.as_bytes(), *amount));
        list
    }

    fn map(list: &[u8]) -> BTreeMap<String, u32> {
        units(list).map(|(name, n)| (String::from_utf8(name.to_vec()).unwrap(), n)).collect()
    }

    proptest! {
        #[test]
        fn units_come_back(some in prop::collection::btree_map("[a-z][a-z0-9_-]{0,30}", any::<u32>(), 0..=9)) {
            let bytes = list(&some);
            prop_assert!(is_units(&bytes) && bytes.len() <= MOST_UNITS_BYTES);
            prop_assert_eq!(map(&bytes), some);
        }

        #[test]
        fn later_units_replace_earlier_ones(
            one in prop::collection::btree_map("[a-c]", any::<u32>(), 0..4),
            other in prop::collection::btree_map("[a-f]", any::<u32>(), 0..6),
        ) {
            let both = merged(&list(&one), &list(&other));
            prop_assert!(is_units(&both));
            let mut expected = one;
            expected.extend(other);
            prop_assert_eq!(map(&both), expected);
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (is_units(&bytes), is_tags(&bytes), merged(&bytes, &bytes));
        }
    }

    #[test]
    fn of_too_many_units_the_longest_names_go() {
        let list = |names: &[&str]| {
            let mut list = Vec::new();
            names.iter().for_each(|name| put_unit(&mut list, name.as_bytes(), 1));
            list
        };
        let both = merged(
            &list(&["long", "b", "a", "calls"]),
            &list(&["u", "v", "w", "x", "y", "z", "zz"]),
        );
        assert_eq!(both, list(&["u", "v", "w", "x", "y", "z", "zz", "a", "b"]));
    }

    #[test]
    fn lists_become_json() {
        let mut list = Vec::new();
        assert_eq!(tags_json(&list), b"{}");
        put(&mut list, b"model", "a\"\\\n\u{e9}".as_bytes());
        put(&mut list, b"size", b"xl");
        let json: serde_json::Value = serde_json::from_slice(&tags_json(&list)).unwrap();
        assert_eq!(json, serde_json::json!({"model": "a\"\\\n\u{e9}", "size": "xl"}));
        let mut list = Vec::new();
        put_unit(&mut list, b"tokens", u32::MAX);
        put_unit(&mut list, b"images", 0);
        assert_eq!(units_json(&list), b"{\"tokens\":4294967295,\"images\":0}");
    }

    #[test]
    fn lists_of_others_are_refused() {
        let with = |name: &str, value: &[u8]| {
            let mut list = Vec::new();
            put(&mut list, name.as_bytes(), value);
            list
        };
        assert!(is_tags(&with("model", b"small")) && is_tags(b""));
        for bad in [with("Model", b"x"), with("", b"x"), with("a", b""), with("a", &[b'x'; 1000])] {
            assert!(!is_tags(&bad), "{bad:?}");
        }
        let twice = [with("a", b"x"), with("a", b"y")].concat();
        assert!(!is_tags(&twice) && !is_tags(&twice[..3]));
        assert!(!is_units(&with("a", b"xyz")));
    }
}
