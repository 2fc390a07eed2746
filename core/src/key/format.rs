//! The written form of a key: `prefix + 43 base62 characters + checksum`.
//!
//! The checksum is the CRC-32 of all that comes before it, as six base62 digits. With it, typos
//! are refused before any look-up, and secret scanners raise no false alarms. The prefix ends in
//! `_`, which is no base62 digit, so the last `_` always divides prefix and body.

/// Base62 digits in ascending order of their ASCII codes.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The characters of the secret: 43 × log2(62) = 256 bits.
pub const SECRET_LEN: usize = 43;
/// The characters of the checksum: 62^6 > 2^32.
pub const CHECKSUM_LEN: usize = 6;
/// The characters that follow the prefix.
pub const BODY_LEN: usize = SECRET_LEN + CHECKSUM_LEN;
/// The longest prefix, its closing `_` included.
pub const MAX_PREFIX_LEN: usize = 32;

/// The parts of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub prefix: &'a str,
    pub secret: &'a str,
    pub checksum: &'a str,
}

/// Splits a key that could have been minted: it has a well-formed prefix, a base62 body of the
/// right length, and the checksum of both.
pub fn parse(key: &[u8]) -> Option<Parts<'_>> {
    let (covered, checksum) = split_checksum(key)?;
    if checksum_of(covered) != *checksum {
        return None;
    }
    // All bytes were found to be ASCII, so this cannot fail.
    let key = core::str::from_utf8(key).ok()?;
    let (prefix, body) = key.split_at(key.len() - BODY_LEN);
    let (secret, checksum) = body.split_at(SECRET_LEN);
    Some(Parts { prefix, secret, checksum })
}

/// Whether `parse` accepts the key.
#[inline]
pub fn is_well_formed(key: &[u8]) -> bool {
    split_checksum(key).is_some_and(|(covered, checksum)| checksum_of(covered) == *checksum)
}

/// Splits a key of the right form into the text that the checksum covers, and the checksum.
#[inline]
fn split_checksum(key: &[u8]) -> Option<(&[u8], &[u8; CHECKSUM_LEN])> {
    let prefix_len = key.len().checked_sub(BODY_LEN)?;
    if !is_prefix(&key[..prefix_len]) || !key[prefix_len..].iter().all(|&b| is_base62(b)) {
        return None;
    }
    key.split_last_chunk::<CHECKSUM_LEN>()
}

/// `[a-z0-9_]`, at most 32, ending in `_` and with something before it.
pub fn is_prefix(prefix: &[u8]) -> bool {
    (2..=MAX_PREFIX_LEN).contains(&prefix.len())
        && prefix.ends_with(b"_")
        && prefix.iter().all(|&b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// A table, because comparing each byte of each key with three ranges takes twice as long.
const IS_BASE62: [bool; 256] = {
    let mut table = [false; 256];
    let mut n = 0;
    while n < ALPHABET.len() {
        table[ALPHABET[n] as usize] = true;
        n += 1;
    }
    table
};

#[inline]
fn is_base62(byte: u8) -> bool {
    IS_BASE62[usize::from(byte)]
}

/// The checksum of `covered`, which is prefix and secret.
pub fn checksum_of(covered: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(covered);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";

    fn with_checksum(covered: &str) -> String {
        let checksum = checksum_of(covered.as_bytes());
        format!("{covered}{}", core::str::from_utf8(&checksum).unwrap())
    }

    #[test]
    fn the_format_is_stable() {
        // Minted keys outlive releases: this exact key must parse forever.
        let key = with_checksum(KEY);
        assert_eq!(key, "ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg32jhdj");
        let parts = parse(key.as_bytes()).unwrap();
        assert_eq!(parts.prefix, "ks_live_");
        assert_eq!(parts.secret.len(), SECRET_LEN);
    }

    #[test]
    fn prefixes_are_bounded() {
        assert!(is_prefix(b"a_"));
        assert!(is_prefix(b"a__"));
        assert!(is_prefix(format!("{}_", "x".repeat(31)).as_bytes()));
        for bad in ["", "_", "a", "A_", "a-_", "é_", "a_b", &format!("{}_", "x".repeat(32))] {
            assert!(!is_prefix(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn nothing_else_parses() {
        let no_prefix = with_checksum(&"0".repeat(SECRET_LEN));
        let bad_secret = with_checksum(&format!("sk_{}", "-".repeat(SECRET_LEN)));
        for bad in ["", "_", "ks_live_", KEY, &no_prefix, &bad_secret, "é", "\u{0}"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
            assert!(!is_well_formed(bad.as_bytes()), "{bad}");
        }
        assert!(parse(&[0xff; 57]).is_none());
    }
}
