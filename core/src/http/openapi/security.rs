//! How requests carry keys, and the scopes that they need.

use crate::policy::expression::Expression;
use crate::policy::header::{Own, Schemes};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The security schemes by their names.
fn named(schemes: &Schemes) -> Vec<(String, Value)> {
    // OpenAPI takes any scheme of Authorization that has the form of RFC 9110, registered or not.
    // As a header of its own, clients would have to write the scheme's name into the key.
    let http = |scheme: &str| json!({"type": "http", "scheme": scheme});
    let header = |name: &str| json!({"type": "apiKey", "in": "header", "name": name});
    let basic = json!({"type": "http", "scheme": "basic",
                       "description": "The key is the name of the user. The password is ignored."});
    let known = [
        (schemes.bearer, "bearer", http("bearer")),
        (schemes.key, "key", http("Key")),
        (schemes.x_api_key, "x_api_key", header("X-API-Key")),
        (schemes.basic, "basic", basic),
    ];
    let known = known.into_iter().filter(|(is_accepted, ..)| *is_accepted);
    let known = known.map(|(_, name, scheme)| (name.into(), scheme));
    let own = schemes.own.iter().map(|own| match own {
        Own::Scheme(name) => (format!("scheme-{name}"), http(name)),
        Own::Header(name) => (format!("header-{name}"), header(name)),
    });
    known.chain(own).collect()
}

pub fn schemes(schemes: &Schemes) -> Value {
    named(schemes).into_iter().collect::<Map<_, _>>().into()
}

/// The most alternatives that are told one by one.
const MOST: usize = 16;

/// The alternatives of a request: any scheme, with the scopes of one alternative. Too many are not
/// told here. Clients read the expression.
pub fn requirements(schemes: &Schemes, scopes: &Expression) -> Value {
    let alternatives = alternatives(scopes).filter(|found| !found.is_empty());
    let alternatives = alternatives.unwrap_or_else(|| vec![BTreeSet::new()]);
    let names: Vec<String> = named(schemes).into_iter().map(|(name, _)| name).collect();
    let each =
        alternatives.iter().flat_map(|scopes| names.iter().map(move |name| json!({name: scopes})));
    each.collect()
}

/// The sets of scopes that meet an expression. `None` if they are too many.
fn alternatives(expression: &Expression) -> Option<Vec<BTreeSet<&str>>> {
    let mut found = match expression {
        Expression::Scope(scope) => vec![BTreeSet::from([&**scope])],
        Expression::Any(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(alternatives).collect();
            parts?.concat()
        }
        Expression::All(parts) => {
            let mut all = vec![BTreeSet::new()];
            for part in parts {
                let part = alternatives(part)?;
                if all.len() * part.len() > MOST {
                    return None;
                }
                let pairs = all.iter().flat_map(|one| part.iter().map(move |other| one | other));
                all = pairs.collect();
            }
            all
        }
    };
    found.sort();
    found.dedup();
    (found.len() <= MOST).then_some(found)
}
