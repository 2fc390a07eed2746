//! Connection strings as libpq takes them, with parameters added to them.

/// The string with these parameters in place of those of the same name. Of several
/// the last counts, in either form that such a string can have.
pub fn with(conninfo: &str, parameters: &[(&str, &str)]) -> String {
    let is_uri = ["postgresql://", "postgres://"].iter().any(|scheme| conninfo.starts_with(scheme));
    let mut whole = String::from(conninfo);
    for (name, value) in parameters {
        if is_uri {
            let mark = if whole.contains('?') { '&' } else { '?' };
            whole.push_str(&format!("{mark}{name}={}", percent_encoded(value)));
        } else {
            let quoted = value.replace('\\', r"\\").replace('\'', r"\'");
            whole.push_str(&format!(" {name}='{quoted}'"));
        }
    }
    whole
}

fn percent_encoded(value: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_added() {
        assert_eq!(with("host=a", &[("dbname", "b")]), "host=a dbname='b'");
        assert_eq!(with("", &[("dbname", r"it's \ b")]), r" dbname='it\'s \\ b'");
    }

    #[test]
    fn a_uri_takes_them_as_its_query() {
        assert_eq!(with("postgres://a/x", &[("dbname", "b c")]), "postgres://a/x?dbname=b%20c");
        assert_eq!(
            with("postgresql://a/?sslmode=require", &[("dbname", "b"), ("user", "ü")]),
            "postgresql://a/?sslmode=require&dbname=b&user=%C3%BC"
        );
    }
}
