//! The scopes that a request needs.

use keysmith_core::policy::expression::{self, Expression};
use keysmith_core::policy::scope::{HeldScopes, Required, is_scope};
use keysmith_core::policy::verdict::Reason;
use pg::varlena::ArrayView;
use std::borrow::Cow;
use std::fmt;

/// The needed scopes, from an argument or from a route.
pub enum NeededScopes<'a> {
    Listed(Listed<'a>),
    /// The expression of the route's definition, with the values of the request's path.
    Route(Cow<'a, Expression>),
    /// No scopes: any valid key may make the request.
    Nothing,
    /// A need that no key meets: the request is refused for this reason.
    Impossible(Cow<'static, str>),
}

/// The elements of a text[], each a scope or an expression. An array that has scopes only is not
/// copied, so it may have any length.
pub struct Listed<'a> {
    list: Option<ArrayView<'a>>,
    /// Whether it is null, or has a null.
    is_null: bool,
    /// All elements, if one of them is an expression with an operator.
    expressions: Vec<Expression>,
}

impl<'a> Listed<'a> {
    /// Reads a list. The error completes "scopes …".
    #[inline]
    pub fn read(list: Option<ArrayView<'a>>) -> Result<Listed<'a>, String> {
        let (mut is_null, mut are_scopes) = (list.is_none(), true);
        if let Some(list) = list
            && !list.is_empty()
        {
            for element in list.iter() {
                match element {
                    None => is_null = true,
                    Some(element) => are_scopes &= is_plain(element),
                }
            }
        }
        let mut listed = Listed { list, is_null, expressions: Vec::new() };
        if !are_scopes {
            listed.expressions = listed.elements().flatten().map(read).collect::<Result<_, _>>()?;
        }
        Ok(listed)
    }

    fn elements(&self) -> impl Iterator<Item = Option<&'a [u8]>> {
        self.list.into_iter().flat_map(ArrayView::iter)
    }
}

/// Whether an element is a single scope.
#[inline]
pub fn is_plain(element: &[u8]) -> bool {
    std::str::from_utf8(element).is_ok_and(is_scope)
}

/// Parses a scope or an expression, which must not be empty. The error completes "scopes …".
pub fn read(element: &[u8]) -> Result<Expression, String> {
    let text = String::from_utf8_lossy(element);
    if text.trim().is_empty() {
        return Err("must not contain an empty scope".into());
    }
    Expression::parse(&text).map_err(|rule| format!("has an expression that {rule}"))
}

pub const EXPRESSION_HINT: &str = "An expression is of scopes, with & for all of them and | for one \
                                   of them, such as a:read & (b:read | b:write).";

/// The greatest length of an expression.
pub const MOST: usize = expression::MAX_LEN;

impl Required for NeededScopes<'_> {
    fn refuses(&self, held: &HeldScopes) -> Option<Reason> {
        let is_met = |expression: &Expression| expression.holds(&|scope| held.covers(scope));
        let is_held = match self {
            NeededScopes::Listed(listed) if listed.is_null => return Some(Reason::ScopesNull),
            NeededScopes::Listed(listed) if listed.expressions.is_empty() => {
                listed.elements().flatten().all(|scope| held.covers(scope))
            }
            NeededScopes::Listed(listed) => listed.expressions.iter().all(is_met),
            NeededScopes::Route(expression) => is_met(expression),
            NeededScopes::Nothing => true,
            NeededScopes::Impossible(_) => false,
        };
        (!is_held).then_some(Reason::InsufficientScope)
    }
}

impl NeededScopes<'_> {
    /// The part of the need that some scopes don't meet, as an expression.
    pub fn missing(&self, held: &HeldScopes) -> Option<Box<str>> {
        let is_met = |expression: &Expression| expression.holds(&|scope| held.covers(scope));
        let missing: Vec<String> = match self {
            NeededScopes::Listed(listed) if listed.expressions.is_empty() => {
                let missing = listed.elements().flatten().filter(|scope| !held.covers(scope));
                missing.map(|scope| String::from_utf8_lossy(scope).into_owned()).collect()
            }
            NeededScopes::Listed(listed) => {
                let missing = listed.expressions.iter().filter(|expression| !is_met(expression));
                missing.map(ToString::to_string).collect()
            }
            NeededScopes::Route(expression) => vec![expression.to_string()],
            NeededScopes::Nothing | NeededScopes::Impossible(_) => return None,
        };
        let in_parentheses = |part: &String| match part.contains([' ', '|']) {
            true if missing.len() > 1 => format!("({part})"),
            _ => part.clone(),
        };
        Some(missing.iter().map(in_parentheses).collect::<Vec<_>>().join(" & ").into())
    }
}

/// Completes "holds …; …", in the answer of `explain_verify`.
impl fmt::Display for NeededScopes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NeededScopes::Listed(Listed { list: None, .. }) => {
                f.write_str("what is needed is null")
            }
            NeededScopes::Listed(listed) => {
                let element = |element: Option<&[u8]>| {
                    element
                        .map_or("null".into(), |bytes| String::from_utf8_lossy(bytes).into_owned())
                };
                let listed = listed.elements().take(100).map(element);
                let listed = listed.collect::<Vec<_>>().join(", ");
                match listed.as_str() {
                    "" => f.write_str("needs none"),
                    listed => write!(f, "needs {}", shortened(listed)),
                }
            }
            NeededScopes::Route(expression) => match expression.to_string().as_str() {
                "" => f.write_str("the route needs none"),
                needed => {
                    write!(f, "the route needs {}", shortened(needed))?;
                    match needed.contains('{') {
                        true => {
                            f.write_str(", where the path has a value that only wildcards cover")
                        }
                        false => Ok(()),
                    }
                }
            },
            NeededScopes::Nothing => f.write_str("the route is not listed, and open to any key"),
            NeededScopes::Impossible(why) => f.write_str(why),
        }
    }
}

/// Cuts a long list, and marks the cut.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    if text.chars().count() <= MOST {
        return text.into();
    }
    text.chars().take(MOST).chain(['…']).collect()
}
