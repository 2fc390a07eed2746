//! Paths with their operations, and the ids of operations.

use super::operation::operation;
use super::{Entry, Service};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The methods that a path item has a place for.
const KNOWN: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];
/// Those that a route for all methods stands for: the ones that APIs use.
const USUAL: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

/// A segment of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Parameter,
}

/// A path, whatever its parameters are called. OpenAPI lets each be there once.
type Shape = Vec<Segment>;

/// What is known of a path.
#[derive(Default)]
struct Item {
    parameters: Vec<String>,
    operations: BTreeMap<String, Placed>,
}

struct Placed {
    operation: Value,
    is_wildcard: bool,
}

pub fn paths(service: &Service) -> Value {
    let mut items: BTreeMap<Shape, Item> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut entries: Vec<&Entry> = service.entries.iter().collect();
    // Those that are found first at a request come first, and endpoints name the parameters.
    entries.sort_by_cached_key(|entry| {
        let depth = entry.pattern.split('/').count();
        let is_open = is_open(entry);
        let by_depth = if is_open { usize::MAX - depth } else { 0 };
        let is_for_all = entry.method == "*";
        (is_open, by_depth, is_for_all, entry.endpoint.is_none(), &entry.pattern, &entry.method)
    });
    for entry in entries {
        let is_for_all = entry.method == "*";
        let methods =
            if is_for_all { USUAL.map(String::from).to_vec() } else { vec![entry.method.clone()] };
        for method in methods {
            let Some(shape) = place(&items, entry, &method) else { continue };
            let item = items.entry(shape.clone()).or_default();
            if item.parameters.is_empty() {
                item.parameters = parameters(&entry.pattern, &shape);
            }
            let id = unique(&mut ids, id(&method, &entry.pattern));
            let mut operation = operation(service, entry, &method, &item.parameters);
            operation.insert("operationId".into(), id.into());
            if is_for_all {
                operation.insert("x-keysmith-any-method".into(), true.into());
            }
            let is_wildcard = is_open(entry);
            if is_wildcard {
                operation.insert("x-keysmith-wildcard".into(), true.into());
            }
            let operation = operation.into();
            item.operations.insert(method, Placed { operation, is_wildcard });
        }
    }
    let written =
        items.into_iter().map(|(shape, item)| (path(&shape, &item.parameters), item.written()));
    Value::Object(written.collect())
}

fn is_open(entry: &Entry) -> bool {
    entry.pattern.ends_with("/*")
}

/// Where the operation of a method belongs; `None` if another one is found wherever it could be.
fn place(items: &BTreeMap<Shape, Item>, entry: &Entry, method: &str) -> Option<Shape> {
    let taken = |shape: &Shape| items.get(shape)?.operations.get(method);
    let mut shape = shape(&entry.pattern);
    loop {
        match taken(&shape) {
            None => return Some(shape),
            // A wildcard holds for longer paths too.
            Some(placed) if is_open(entry) && !placed.is_wildcard => shape.push(Segment::Parameter),
            Some(_) => return None,
        }
    }
}

fn segments(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.split('/').skip(1).filter(|segment| !segment.is_empty())
}

/// The name of a parameter.
fn parameter(segment: &str) -> Option<&str> {
    match segment {
        "*" => Some("rest"),
        _ => segment.strip_prefix('{')?.strip_suffix('}'),
    }
}

fn shape(pattern: &str) -> Shape {
    let segment = |segment: &str| match parameter(segment) {
        Some(_) => Segment::Parameter,
        None => Segment::Literal(encoded(segment)),
    };
    segments(pattern).map(segment).collect()
}

/// The names of a path's parameters, each once.
fn parameters(pattern: &str, shape: &Shape) -> Vec<String> {
    let count = shape.iter().filter(|segment| **segment == Segment::Parameter).count();
    let named = segments(pattern).filter_map(parameter);
    let mut known = BTreeSet::new();
    named
        .chain(std::iter::repeat("rest"))
        .take(count)
        .map(|name| unique(&mut known, name.into()))
        .collect()
}

/// A name that is not known yet.
fn unique(known: &mut BTreeSet<String>, name: String) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let free = std::iter::once(name.clone()).chain(numbered).find(|name| !known.contains(name));
    let free = free.unwrap_or(name);
    known.insert(free.clone());
    free
}

fn path(shape: &Shape, parameters: &[String]) -> String {
    let mut parameters = parameters.iter();
    let segments = shape.iter().map(|segment| match segment {
        Segment::Literal(literal) => format!("/{literal}"),
        Segment::Parameter => {
            format!("/{{{}}}", parameters.next().map(String::as_str).unwrap_or_default())
        }
    });
    let path: String = segments.collect();
    if path.is_empty() { "/".into() } else { path }
}

/// A segment as URLs have it (RFC 3986).
fn encoded(segment: &str) -> String {
    let mut encoded = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The id of an operation, such as `get_v1_keys_by_id`. It doesn't depend on what else is listed: a
/// pattern whose id could be another one's too has the checksum of method and pattern in it.
fn id(method: &str, pattern: &str) -> String {
    let is_word = |text: &str| {
        !text.starts_with('_')
            && !text.ends_with('_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let mut is_plain = is_word(method);
    let mut id: String = method.to_ascii_lowercase();
    for segment in segments(pattern) {
        let (before, word) = match segment {
            "*" => ("", "any"),
            _ => match parameter(segment) {
                Some(name) => ("by_", name),
                None => {
                    is_plain &= !matches!(segment, "by" | "any");
                    ("", segment)
                }
            },
        };
        is_plain &= is_word(word);
        let kept = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let word: String = word.chars().map(kept).collect();
        let word = if is_plain { word.replace('_', "__") } else { word };
        id.push_str(&format!("_{before}{word}"));
    }
    if !is_plain {
        let whole = format!("{method} {pattern}");
        id.push_str(&format!("_{:08x}", crc32fast::hash(whole.as_bytes())));
    }
    id
}

impl Item {
    fn written(self) -> Value {
        let (mut known, mut others) = (Map::new(), Map::new());
        for (method, placed) in self.operations {
            if KNOWN.contains(&&*method) {
                known.insert(method.to_ascii_lowercase(), placed.operation);
            } else {
                others.insert(method, placed.operation);
            }
        }
        if !others.is_empty() {
            known.insert("x-keysmith-methods".into(), others.into());
        }
        known.into()
    }
}
