//! The scopes that a request needs, joined by `&` (all of them) and `|` (any of them).
//!
//! An example is `images:write | (videos:write & generations:read)`. `&` binds tighter. A single
//! scope is an expression. An empty text is one too, and needs nothing.

use super::parameter;
use super::scope::is_scope;
use std::borrow::Cow;
use std::fmt;

/// The longest expression, in bytes.
pub const MAX_LEN: usize = 4096;
/// How deep parentheses may be nested.
const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Scope(Box<str>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

impl Expression {
    /// Reads an expression. The error completes "… has an expression that …".
    pub fn parse(text: &str) -> Result<Expression, String> {
        Expression::parse_of(text, is_scope)
    }

    /// Reads the expression of a route, whose scopes may have parameters: `projects:write:{id}`.
    pub fn parse_of_route(text: &str) -> Result<Expression, String> {
        Expression::parse_of(text, parameter::is_pattern)
    }

    fn parse_of(text: &str, is_name: fn(&str) -> bool) -> Result<Expression, String> {
        if text.len() > MAX_LEN {
            return Err(format!("is longer than {MAX_LEN} bytes"));
        }
        let mut parser = Parser { rest: text, whole: text, is_name };
        parser.skip_space();
        if parser.rest.is_empty() {
            return Ok(Expression::All(Vec::new()));
        }
        let expression = parser.any(0)?;
        match parser.rest.chars().next() {
            None => Ok(expression),
            Some(')') => Err(parser.fail("has a ) too many")),
            Some(_) => Err(parser.fail("lacks & or | between two scopes")),
        }
    }

    /// Whether it is met by a key that holds some scopes.
    pub fn holds(&self, has: &impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Expression::Scope(scope) => has(scope.as_bytes()),
            Expression::All(parts) => parts.iter().all(|part| part.holds(has)),
            Expression::Any(parts) => parts.iter().any(|part| part.holds(has)),
        }
    }

    /// The same with values for the parameters of its scopes. Those that have no value stay.
    pub fn filled<'v>(&self, value: &impl Fn(&str) -> Option<Cow<'v, str>>) -> Expression {
        let filled = |parts: &[Expression]| parts.iter().map(|part| part.filled(value)).collect();
        match self {
            Expression::Scope(scope) => Expression::Scope(parameter::fill(scope, value).into()),
            Expression::All(parts) => Expression::All(filled(parts)),
            Expression::Any(parts) => Expression::Any(filled(parts)),
        }
    }

    /// Every scope that it names.
    pub fn scopes(&self) -> Vec<&str> {
        match self {
            Expression::Scope(scope) => vec![scope],
            Expression::All(parts) | Expression::Any(parts) => {
                parts.iter().flat_map(Expression::scopes).collect()
            }
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, sign) = match self {
            Expression::Scope(scope) => return f.write_str(scope),
            Expression::All(parts) => (parts, " & "),
            Expression::Any(parts) => (parts, " | "),
        };
        for (index, part) in parts.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { sign })?;
            match part {
                Expression::Scope(scope) => f.write_str(scope)?,
                nested => write!(f, "({nested})")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
    whole: &'a str,
    is_name: fn(&str) -> bool,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Expression, String> {
        self.list('|', depth, Self::all, Expression::Any)
    }

    fn all(&mut self, depth: usize) -> Result<Expression, String> {
        self.list('&', depth, Self::part, Expression::All)
    }

    /// Parts with a sign between them. A single part stays as it is.
    fn list(
        &mut self,
        sign: char,
        depth: usize,
        part: fn(&mut Self, usize) -> Result<Expression, String>,
        wrap: fn(Vec<Expression>) -> Expression,
    ) -> Result<Expression, String> {
        let first = part(self, depth)?;
        let mut parts = Vec::new();
        while self.take(sign) {
            parts.push(part(self, depth)?);
        }
        if parts.is_empty() {
            return Ok(first);
        }
        parts.insert(0, first);
        Ok(wrap(parts))
    }

    fn part(&mut self, depth: usize) -> Result<Expression, String> {
        if !self.take('(') {
            return self.scope();
        }
        if depth >= MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH}"));
        }
        let inner = self.any(depth + 1)?;
        if self.take(')') { Ok(inner) } else { Err(self.fail("lacks a )")) }
    }

    fn scope(&mut self) -> Result<Expression, String> {
        let end = self.rest.find(['|', '&', '(', ')', ' ', '\t', '\n', '\r']);
        let (scope, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if !(self.is_name)(scope) {
            return Err(self.fail("lacks the name of a scope"));
        }
        self.rest = rest;
        self.skip_space();
        Ok(Expression::Scope(scope.into()))
    }

    fn take(&mut self, sign: char) -> bool {
        let Some(rest) = self.rest.strip_prefix(sign) else { return false };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn fail(&self, what: &str) -> String {
        let at = self.whole[..self.whole.len() - self.rest.len()].chars().count();
        format!("{what} at character {}", at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(expression: &str, held: &[&str]) -> bool {
        let has = |scope: &[u8]| held.iter().any(|held| held.as_bytes() == scope);
        Expression::parse(expression).expect(expression).holds(&has)
    }

    #[test]
    fn and_binds_tighter_than_or() {
        for (expression, held, expected) in [
            ("", &[][..], true),
            ("  ", &[], true),
            ("a", &["a"], true),
            ("a", &["b"], false),
            ("a & b", &["a"], false),
            ("a&b", &["a", "b"], true),
            ("a | b & c", &["a"], true),
            ("a | b & c", &["b"], false),
            ("a | b & c", &["b", "c"], true),
            ("(a | b) & c", &["a"], false),
            ("(a | b) & c", &["a", "c"], true),
            ("images:write | (videos:write & generations:read)", &["videos:write"], false),
            ("((((a))))", &["a"], true),
        ] {
            assert_eq!(holds(expression, held), expected, "{expression} given {held:?}");
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        for (bad, expected) in [
            ("a b", "lacks & or | between two scopes at character 3"),
            ("a &", "lacks the name of a scope at character 4"),
            ("| a", "lacks the name of a scope at character 1"),
            ("(a", "lacks a ) at character 3"),
            ("a)", "has a ) too many at character 2"),
            ("()", "lacks the name of a scope at character 2"),
            ("é", "lacks the name of a scope at character 1"),
            ("a && b", "lacks the name of a scope at character 4"),
            ("a | *", "lacks the name of a scope at character 5"),
        ] {
            assert_eq!(Expression::parse(bad), Err(expected.into()), "{bad}");
        }
        let deep = format!("{}a{}", "(".repeat(33), ")".repeat(33));
        assert_eq!(Expression::parse(&deep), Err("is nested deeper than 32".into()));
        assert!(Expression::parse(&"a|".repeat(3000)).is_err());
    }

    #[test]
    fn scopes_of_a_route_have_parameters() {
        let text = "projects:write:{id} & (p:{id}:{x} | admin)";
        assert!(Expression::parse(text).is_err());
        let expression = Expression::parse_of_route(text).unwrap();
        let value = |name: &str| (name == "id").then_some(Cow::Borrowed("42"));
        let filled = expression.filled(&value).to_string();
        assert_eq!(filled, "projects:write:42 & (p:42:{x} | admin)");
        assert!(Expression::parse_of_route("a:{id}b").is_err());
    }

    /// Expressions with the value that they must have, built side by side.
    fn known() -> impl Strategy<Value = (String, bool)> {
        let leaf = prop_oneof![Just(("yes".to_string(), true)), Just(("no".to_string(), false))];
        leaf.prop_recursive(5, 40, 4, |inner| {
            (proptest::collection::vec(inner, 1..4), any::<bool>()).prop_map(|(parts, all)| {
                let texts: Vec<_> = parts.iter().map(|(text, _)| text.as_str()).collect();
                let value = if all {
                    parts.iter().all(|(_, value)| *value)
                } else {
                    parts.iter().any(|(_, value)| *value)
                };
                (format!("({})", texts.join(if all { " & " } else { "|" })), value)
            })
        })
    }

    proptest! {
        #[test]
        fn the_value_is_that_of_the_tree((text, value) in known()) {
            prop_assert_eq!(holds(&text, &["yes"]), value);
            // It is the same after writing and reading it.
            let expression = Expression::parse(&text).unwrap();
            prop_assert_eq!(Expression::parse(&expression.to_string()), Ok(expression));
        }

        #[test]
        fn any_text_is_taken_without_panic(text in "[a-z:&|() \té\u{0}]{0,60}") {
            if let Ok(expression) = Expression::parse(&text) {
                prop_assert!(expression.scopes().iter().all(|scope| is_scope(scope)));
            }
        }
    }
}
