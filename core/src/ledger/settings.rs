//! What a ledger covers, as bytes. Each block has them, so that nobody can change them unnoticed.

use super::bytes;

/// The settings of a ledger: the first column of the primary key, how far its numbers are shifted to
/// ranges, and the names of the columns that are hashed. No names mean all columns.
pub fn settings(key_column: &str, shift: u8, names: &[String]) -> Vec<u8> {
    let mut names: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
    names.sort_unstable();
    let mut written = Vec::new();
    bytes::sized(&mut written, key_column.as_bytes());
    written.push(shift);
    written.extend_from_slice(&bytes::length(names.len()));
    names.into_iter().for_each(|name| bytes::sized(&mut written, name));
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, shift: u8, names: &[&str]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(|name| String::from(*name)).collect();
        settings(key, shift, &names)
    }

    #[test]
    fn the_order_of_names_does_not_matter() {
        let written = of("id", 12, &["ö", "id", "b"]);
        assert_eq!(written, of("id", 12, &["b", "id", "ö"]));
        let plain = b"\0\0\0\x02id\x0c\0\0\0\x03\0\0\0\x01b\0\0\0\x02id\0\0\0\x02\xc3\xb6";
        assert_eq!(written, plain);
    }

    #[test]
    fn other_settings_have_other_bytes() {
        let all = [
            of("id", 12, &[]),
            of("id", 13, &[]),
            of("ix", 12, &[]),
            of("id", 12, &[""]),
            of("id", 12, &["ab"]),
            of("id", 12, &["a", "b"]),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one));
        }
    }
}
