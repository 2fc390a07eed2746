//! The query of a request's path: fields as forms encode them.

/// The most fields that a query may have.
const MAX_FIELDS: usize = 100;

/// The fields of the query after a path's `?`, in their order. A field without `=` has an empty
/// value. The error completes "the query …".
pub fn fields(path: &[u8]) -> Result<Vec<(String, String)>, String> {
    let Some(at) = path.iter().position(|byte| *byte == b'?') else { return Ok(Vec::new()) };
    let mut fields: Vec<(String, String)> = Vec::new();
    for field in path[at + 1..].split(|byte| *byte == b'&').filter(|field| !field.is_empty()) {
        let end = field.iter().position(|byte| *byte == b'=').unwrap_or(field.len());
        let name = decoded(&field[..end]).ok_or("has a field whose name is not UTF-8")?;
        let value = decoded(field.get(end + 1..).unwrap_or_default());
        let value = value.ok_or_else(|| format!("has a value of {name:?} that is not UTF-8"))?;
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(format!("has {name:?} more than once"));
        }
        if fields.len() == MAX_FIELDS {
            return Err(format!("has more than {MAX_FIELDS} fields"));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// Decodes `+` and `%41`. `None` for incomplete escapes, and for what PostgreSQL can't store.
fn decoded(text: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                hex::decode(digits).ok()?[0]
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &str) -> Result<Vec<(String, String)>, String> {
        fields(path.as_bytes())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn fields_in_their_order() {
        assert_eq!(read("/keys"), pairs(&[]));
        assert_eq!(read("/keys?"), pairs(&[]));
        assert_eq!(read("/keys?page=2&limit=10"), pairs(&[("page", "2"), ("limit", "10")]));
        assert_eq!(read("/keys?&a&b=&c=d=e?f&"), pairs(&[("a", ""), ("b", ""), ("c", "d=e?f")]));
        let encoded = read("/k?n%61me=a+b%20%C3%A9%26%3d&%2B=%2B");
        assert_eq!(encoded, pairs(&[("name", "a b é&="), ("+", "+")]));
    }

    #[test]
    fn what_servers_may_understand_in_different_ways() {
        for bad in ["?a=1&a=2", "?a=1&%61=2", "?a=%", "?a=%4", "?a=%zz", "?%ff=1", "?a=%00"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many = (0..101).map(|n| format!("f{n}")).collect::<Vec<_>>().join("&");
        assert!(read(&format!("/?{many}")).unwrap_err().contains("more than 100"));
        assert!(read("?a=1&a=2").unwrap_err().contains("\"a\" more than once"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(fields) = fields(&path) {
                prop_assert!(fields.iter().all(|(name, value)| !(name.clone() + value).contains('\0')));
            }
        }
    }
}
