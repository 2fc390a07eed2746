//! Connection strings of libpq.

/// The string with these parameters instead of those with the same name. They are appended: in
/// both forms of such strings, the last parameter with a name counts.
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

/// Whether the string holds a password or another secret: in a parameter that libpq treats as
/// secret, or between the user's name and the host of a URI.
pub fn holds_secret(conninfo: &[u8]) -> bool {
    const NAMES: [&[u8]; 4] = [b"password", b"secret", b"scram_client_key", b"scram_server_key"];
    let is_set = |name: &&[u8]| {
        let mut ends = (0..conninfo.len()).filter_map(|n| conninfo.get(n..)?.strip_prefix(*name));
        ends.any(|rest| rest.trim_ascii_start().first() == Some(&b'='))
    };
    NAMES.iter().any(is_set) || has_password_of_user(conninfo)
}

fn has_password_of_user(conninfo: &[u8]) -> bool {
    let schemes = [&b"postgresql://"[..], b"postgres://"];
    let Some(rest) = schemes.iter().find_map(|scheme| conninfo.strip_prefix(*scheme)) else {
        return false;
    };
    let end = rest.iter().position(|byte| matches!(byte, b'@' | b'/')).unwrap_or(rest.len());
    let (user, host) = rest.split_at(end);
    host.first() == Some(&b'@') && user.contains(&b':')
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
    fn secrets_are_found_in_either_form() {
        for secret in [
            "password=x",
            "host=a password = 'x y'",
            "host=a sslpassword=x",
            "oauth_client_secret=x",
            "scram_client_key=x",
            "postgres://u:x@h/d",
            "postgresql://u:@h",
            "postgresql://h/d?password=x",
            "postgresql://h/d?sslmode=require&password=x",
        ] {
            assert!(holds_secret(secret.as_bytes()), "{secret}");
        }
        for harmless in [
            "",
            "off",
            "host=a user=b passfile=/c require_auth=password",
            "postgres://u@h:5432/d",
            "postgres://[::1]:5432/d?passfile=/c",
            "postgres://h:5432/a@b",
            "postgres://",
        ] {
            assert!(!holds_secret(harmless.as_bytes()), "{harmless}");
        }
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
