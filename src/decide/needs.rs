//! What a request needs of a key's scopes.

use super::explain::shortened;
use crate::varlena::ArrayView;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::scope::{self, Held, Required};
use std::fmt;

/// From whichever side it was asked for.
pub enum Needs<'a> {
    /// Each element of a text[]: a scope or an expression. Nothing is collected, so
    /// that an array of any length will do.
    Listed(Option<ArrayView<'a>>),
    /// What the route's definition says.
    Route(&'a Expression),
    /// Any good key.
    Nothing,
    /// More than any key has: the request gets nowhere, for the reason given.
    Impossible(&'static str),
}

impl Required for Needs<'_> {
    fn is_held(&self, held: &Held) -> bool {
        match self {
            Needs::Listed(None) | Needs::Nothing => true,
            Needs::Listed(Some(list)) => {
                list.iter().all(|element| element.is_some_and(|element| is_met(element, held)))
            }
            Needs::Route(expression) => expression.holds(&|scope| held.covers(scope)),
            Needs::Impossible(_) => false,
        }
    }
}

/// Completes "holds …; …".
impl fmt::Display for Needs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Needs::Listed(list) => {
                let element = |element: Option<&[u8]>| {
                    element
                        .map_or("null".into(), |bytes| String::from_utf8_lossy(bytes).into_owned())
                };
                let listed = list.iter().flat_map(|list| list.iter()).take(100).map(element);
                let listed = listed.collect::<Vec<_>>().join(", ");
                match listed.as_str() {
                    "" => f.write_str("needs none"),
                    listed => write!(f, "needs {}", shortened(listed)),
                }
            }
            Needs::Route(expression) => match expression.to_string().as_str() {
                "" => f.write_str("the route needs none"),
                needed => write!(f, "the route needs {}", shortened(needed)),
            },
            Needs::Nothing => f.write_str("the route is not listed, and open to any key"),
            Needs::Impossible(why) => f.write_str(why),
        }
    }
}

/// What is neither a scope nor an expression is not met, nor is nothing at all.
pub fn is_met(element: &[u8], held: &Held) -> bool {
    if scope::is_plain(element) {
        return held.covers(element);
    }
    let text = std::str::from_utf8(element).unwrap_or_default().trim();
    let expression = Expression::parse(text);
    !text.is_empty() && expression.is_ok_and(|expression| expression.holds(&|s| held.covers(s)))
}
