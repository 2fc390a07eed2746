//! Routes: the lines of the input before an empty line are patterns, the rest is a path. A
//! matching route must match the path, and a path that servers may interpret differently must
//! match none.

#![no_main]

use keysmith_core::policy::route::{Match, Path, Routes, check_pattern, is_method};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(blank) = data.windows(2).position(|two| two == b"\n\n") else { return };
    let (patterns, path) = (&data[..blank], &data[blank + 2..]);
    let mut routes = Routes::default();
    let mut accepted = Vec::new();
    for pattern in patterns.split(|byte| *byte == b'\n').take(50) {
        let Ok(pattern) = std::str::from_utf8(pattern) else { continue };
        if check_pattern(pattern).is_ok() {
            routes.add(b"GET", pattern.as_bytes(), b"", pattern);
            accepted.push(pattern);
        }
    }
    assert!(!is_method("") && is_method("GET"));
    let Some(parsed) = Path::parse(path) else { return };
    // The query makes no difference.
    let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
    assert!(Path::parse(&path[..end]).is_some());
    assert!(!path[..end].iter().any(|byte| byte.is_ascii_control() || b"\\;#".contains(byte)));
    let literal = std::str::from_utf8(&path[..end]).unwrap_or("%");
    match routes.find(b"GET", &parsed, b"") {
        Match::Route(pattern) => assert!(accepted.contains(pattern)),
        Match::UnknownVariant => panic!("every route here has the variant that is asked for"),
        // A pattern without parameters must match the same text as a path.
        Match::Unlisted => {
            assert!(literal.contains(['%', '{', '}', '*']) || !accepted.contains(&literal))
        }
    }
    assert!(matches!(routes.find(b"POST", &parsed, b""), Match::Unlisted));
    if accepted.iter().all(|pattern| !pattern.is_empty()) && !accepted.is_empty() {
        assert!(!matches!(routes.find(b"GET", &parsed, b"other"), Match::Route(_)));
    }
});
