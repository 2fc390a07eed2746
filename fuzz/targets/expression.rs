//! Expressions of scopes, and single scopes: a printed expression must parse to the same, and a
//! key that holds all its scopes must meet it.

#![no_main]

use keysmith_core::policy::expression::{Expression, MAX_LEN};
use keysmith_core::policy::scope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if scope::is_scope(text) {
        assert!(scope::is_grant(text) && scope::covers(data, data) && scope::covers(b"*", data));
    }
    let Ok(expression) = Expression::parse(text) else { return };
    let scopes = expression.scopes();
    assert!(scopes.iter().all(|scope| scope::is_scope(scope)));
    assert!(expression.holds(&|_| true), "all scopes together are not enough");
    // A key without scopes meets no expression that needs one: & and | have no negation.
    assert_eq!(expression.holds(&|_| false), scopes.is_empty());
    // Each additional scope can only help.
    let first = scopes.first().copied().unwrap_or_default();
    let by_one = expression.holds(&|scope| scope == first.as_bytes());
    let by_two = expression.holds(&|scope| {
        scope == first.as_bytes() || scopes.last().is_some_and(|last| scope == last.as_bytes())
    });
    assert!(by_two || !by_one);
    // A printed expression has more parentheses and spaces, and may exceed the bounds; stored
    // expressions are never printed ones.
    let printed = expression.to_string();
    match Expression::parse(&printed) {
        Ok(again) => assert_eq!(again, expression, "{printed}"),
        Err(_) => assert!(printed.len() > MAX_LEN || depth(&printed) > 32, "{printed}"),
    }
});

fn depth(text: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
