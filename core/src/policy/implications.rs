//! The scopes that each scope implies, in any number of steps.
//!
//! `projects:write:{id}` may imply `projects:read:{id}`: the same project. It may imply
//! `projects:list` too, which a key then holds by any instance.

use super::parameter::{fill, values};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// A scope of the catalogue, and the scopes that it implies itself.
pub type Direct<'a> = (&'a str, Vec<&'a str>);

/// Most scopes that a scope may imply. Those of larger tables are left out.
const MOST: usize = 10_000;

#[derive(Default)]
pub struct Implications {
    /// For each scope, all other scopes that imply it.
    implied_by: HashMap<Box<[u8]>, Vec<Box<[u8]>>>,
    /// Those in which a parameter occurs.
    families: Vec<Family>,
}

/// A scope that another one implies, for each value of its parameters.
struct Family {
    implied: Box<[Segment]>,
    implying: Box<[Segment]>,
}

enum Segment {
    Literal(Box<[u8]>),
    Any,
    /// The same as this segment of the implied scope.
    Same(usize),
}

/// What is wrong with a catalogue.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A scope implies itself, or an instance of itself.
    Circle,
    TooMany,
}

struct Table<'a> {
    by_name: HashMap<&'a str, &'a [&'a str]>,
    with_parameters: Vec<(&'a str, &'a [&'a str])>,
}

impl<'a> Table<'a> {
    fn new(direct: &'a [Direct<'a>]) -> Table<'a> {
        let all = || direct.iter().map(|(scope, implied)| (*scope, implied.as_slice()));
        Table {
            by_name: all().filter(|(scope, _)| !scope.contains('{')).collect(),
            with_parameters: all().filter(|(scope, _)| scope.contains('{')).collect(),
        }
    }

    /// All scopes that a scope implies, without itself, and what is wrong with them.
    fn reached(&self, root: &str, direct: &[&str]) -> (HashSet<String>, Option<Flaw>) {
        let (mut reached, mut flaw) = (HashSet::new(), None);
        let mut open: Vec<String> = direct.iter().map(|scope| (*scope).to_owned()).collect();
        while let Some(next) = open.pop() {
            if values(root, &next).is_some() {
                flaw = Some(Flaw::Circle);
            }
            if next == root || reached.contains(&next) {
                continue;
            }
            if reached.len() >= MOST {
                return (reached, Some(Flaw::TooMany));
            }
            open.extend(
                self.by_name.get(&*next).into_iter().copied().flatten().map(|s| s.to_string()),
            );
            for (pattern, implied) in &self.with_parameters {
                let Some(values) = values(pattern, &next) else { continue };
                let value = |name: &str| {
                    let (_, value) = values.iter().find(|(parameter, _)| *parameter == name)?;
                    Some(Cow::Borrowed(*value))
                };
                open.extend(implied.iter().map(|implied| fill(implied, value)));
            }
            reached.insert(next);
        }
        (reached, flaw)
    }
}

/// Checks a catalogue.
pub fn check(direct: &[Direct]) -> Result<(), Flaw> {
    let table = Table::new(direct);
    let mut flaws = direct.iter().filter_map(|(scope, implied)| table.reached(scope, implied).1);
    flaws.next().map_or(Ok(()), Err)
}

impl Implications {
    /// Cycles are harmless: the scopes of a cycle imply each other.
    pub fn new(direct: &[Direct]) -> Self {
        let table = Table::new(direct);
        let mut implications = Implications::default();
        for (scope, list) in direct {
            for implied in table.reached(scope, list).0 {
                if scope.contains('{') {
                    implications.families.push(Family::new(&implied, scope));
                } else {
                    let implied_by = &mut implications.implied_by;
                    let implying = implied_by.entry(implied.into_bytes().into()).or_default();
                    implying.push(scope.as_bytes().into());
                }
            }
        }
        implications
    }

    /// The scopes that imply a scope, by name.
    #[inline]
    pub fn implying(&self, scope: &[u8]) -> &[Box<[u8]>] {
        if self.implied_by.is_empty() {
            return &[];
        }
        self.implied_by.get(scope).map_or(&[], Vec::as_slice)
    }

    /// Whether one of several grants covers a scope with parameters that implies this one.
    #[inline]
    pub fn gives<'g>(&self, grants: impl Iterator<Item = &'g [u8]> + Clone, scope: &[u8]) -> bool {
        let mut implied = self.families.iter().filter(|family| family.implies(scope));
        implied.any(|family| grants.clone().any(|grant| family.is_given(grant, scope)))
    }
}

fn segments(scope: &[u8]) -> impl Iterator<Item = &[u8]> {
    scope.split(|b| *b == b':')
}

impl Family {
    fn new(implied: &str, implying: &str) -> Family {
        let literal = |segment: &str| Segment::Literal(segment.as_bytes().into());
        let is_parameter = |segment: &str| segment.starts_with('{');
        let place = |parameter: &str| implied.split(':').position(|segment| segment == parameter);
        let any = |segment| if is_parameter(segment) { Segment::Any } else { literal(segment) };
        let same = |segment| match place(segment) {
            Some(place) if is_parameter(segment) => Segment::Same(place),
            _ => any(segment),
        };
        Family {
            implied: implied.split(':').map(any).collect(),
            implying: implying.split(':').map(same).collect(),
        }
    }

    /// Whether it is about a scope. A wildcard is no scope: it covers longer names too.
    fn implies(&self, scope: &[u8]) -> bool {
        segments(scope).count() == self.implied.len()
            && self.implied.iter().zip(segments(scope)).all(|(wanted, segment)| match wanted {
                Segment::Literal(literal) => **literal == *segment,
                _ => segment != b"*",
            })
    }

    /// Whether a grant covers what implies a scope.
    fn is_given(&self, grant: &[u8], scope: &[u8]) -> bool {
        let (mut wanted, mut given) = (self.implying.iter(), segments(grant));
        loop {
            let (wanted, segment) = match (wanted.next(), given.next()) {
                (None, None) | (Some(_), Some(b"*")) => return true,
                (Some(wanted), Some(segment)) => (wanted, segment),
                _ => return false,
            };
            let is_met = match wanted {
                Segment::Literal(literal) => **literal == *segment,
                Segment::Any => true,
                Segment::Same(place) => segments(scope).nth(*place) == Some(segment),
            };
            if !is_met {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scope::{GrantList, HeldScopes};
    use super::*;

    /// Whether a list of grants covers a scope.
    fn covers(direct: &[Direct], grants: &[&str], scope: &str) -> bool {
        let implications = Implications::new(direct);
        let grants: Vec<&[u8]> = grants.iter().map(|grant| grant.as_bytes()).collect();
        let within = [Some(GrantList::Borrowed(&grants)), None, None];
        HeldScopes::new(within, &implications).covers(scope.as_bytes())
    }

    #[test]
    fn they_reach_through_steps_and_cycles() {
        let table = [("admin", vec!["write"]), ("write", vec!["read"]), ("read", vec!["write"])];
        assert!(covers(&table, &["admin"], "read"));
        assert!(covers(&table, &["read"], "write"));
        assert!(!covers(&table, &["read"], "admin"));
    }

    #[test]
    fn a_wildcard_also_gives_what_its_members_imply() {
        let table = [("images:write", vec!["files:read"])];
        assert!(covers(&table, &["images:*"], "files:read"));
        assert!(!covers(&table, &["images:*"], "files:write"));
    }

    #[test]
    fn an_instance_implies_the_same_instance() {
        let table = [
            ("projects:admin:{p}", vec!["projects:write:{p}"]),
            ("projects:write:{id}", vec!["projects:read:{id}", "projects:list"]),
            ("root", vec!["projects:admin:1"]),
        ];
        for (grant, scope, expected) in [
            ("projects:write:42", "projects:read:42", true),
            ("projects:write:42", "projects:read:43", false),
            ("projects:write:42", "projects:read:{id}", false),
            ("projects:write:42", "projects:read:*", false),
            ("projects:write:42", "projects:list", true),
            ("projects:write:42:x", "projects:list", false),
            ("projects:read:42", "projects:write:42", false),
            ("projects:read:42", "projects:list", false),
            ("projects:admin:42", "projects:read:42", true),
            ("projects:admin:42", "projects:read:7", false),
            ("projects:write:*", "projects:read:42", true),
            ("projects:write:*", "projects:read:{id}", true),
            // It would cover projects:read:42:more, which nothing implies.
            ("projects:write:*", "projects:read:*", false),
            ("projects:write:*", "projects:read:42:more", false),
            ("projects:*", "projects:list", true),
            ("root", "projects:read:1", true),
            ("root", "projects:read:2", false),
            ("root", "projects:list", true),
        ] {
            assert_eq!(covers(&table, &[grant], scope), expected, "{grant} ~ {scope}");
        }
    }

    #[test]
    fn parameters_may_change_places() {
        let table = [("a:{x}:{y}", vec!["b:{y}:{x}", "c:{y}"])];
        assert!(covers(&table, &["a:1:2"], "b:2:1") && !covers(&table, &["a:1:2"], "b:1:2"));
        assert!(covers(&table, &["a:1:2"], "c:2") && !covers(&table, &["a:1:2"], "c:1"));
        assert!(covers(&table, &["a:1:*"], "b:2:1") && !covers(&table, &["a:1:*"], "b:2:2"));
    }

    #[test]
    fn circles_are_found() {
        let circle = |table: &[Direct]| check(table);
        assert_eq!(circle(&[("a", vec!["b"]), ("b", vec!["c"])]), Ok(()));
        assert_eq!(circle(&[("a:{x}", vec!["b:{x}"]), ("b:{y}", vec!["c:{y}"])]), Ok(()));
        for table in [
            vec![("a", vec!["a"])],
            vec![("a", vec!["b"]), ("b", vec!["a"])],
            vec![("a:{x}", vec!["a:{x}"])],
            vec![("a:{x}:{y}", vec!["a:{y}:{x}"])],
            vec![("a:{x}", vec!["b:{x}"]), ("b:{y}", vec!["a:{y}"])],
            vec![("a:{x}", vec!["b:1"]), ("b:{y}", vec!["a:2"])],
            vec![("a:1", vec!["b:1"]), ("b:{y}", vec!["a:{y}"])],
        ] {
            assert_eq!(circle(&table), Err(Flaw::Circle), "{table:?}");
            Implications::new(&table);
        }
    }

    #[test]
    fn a_catalogue_that_explodes_is_refused_and_cut() {
        let names: Vec<String> = (0..200).map(|n| format!("x{n}")).collect();
        let lists: Vec<Vec<String>> = (0..3)
            .map(|level| {
                let of = |name: &String| {
                    [format!("l{}:{{b}}:{name}", level + 1), format!("l{}:{name}:{{a}}", level + 1)]
                };
                names.iter().flat_map(of).collect()
            })
            .collect();
        let scopes: Vec<String> = (0..3).map(|level| format!("l{level}:{{a}}:{{b}}")).collect();
        let table: Vec<Direct> = scopes
            .iter()
            .zip(&lists)
            .map(|(scope, list)| (scope.as_str(), list.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(check(&table), Err(Flaw::TooMany));
        Implications::new(&table);
    }
}
