//! Keys as callers send them: a parsed key must print as the same text, and changing any single
//! character must make it invalid.

#![no_main]

use keysmith_core::key::display;
use keysmith_core::key::format::{self, ALPHABET};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parts = format::parse(data);
    assert_eq!(parts.is_some(), format::is_well_formed(data));
    let Some(parts) = parts else {
        // A body of the right length gets its checksum, and must then be well-formed.
        let mut key = b"ks_live_".to_vec();
        let body = data.iter().map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()]);
        key.extend(body.chain(std::iter::repeat(b'0')).take(format::SECRET_LEN));
        key.extend(format::checksum_of(&key));
        check(&key);
        return;
    };
    assert_eq!([parts.prefix, parts.secret, parts.checksum].concat().as_bytes(), data);
    check(data);
});

fn check(key: &[u8]) {
    let parts = format::parse(key).expect("it has the right checksum");
    for template in [display::DEFAULT_PREFIX, display::DEFAULT_SNIPPET, "{secret:8}-{end:6}"] {
        let shown = display::show(template, parts);
        assert!(!shown.contains(parts.secret), "the secret is shown");
    }
    for (index, byte) in key.iter().enumerate().skip(parts.prefix.len()) {
        let mut mistyped = key.to_vec();
        mistyped[index] = if *byte == b'a' { b'b' } else { b'a' };
        assert!(!format::is_well_formed(&mistyped), "a mistyped key is taken for one");
    }
}
