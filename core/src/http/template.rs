//! Templates of JSON bodies.
//!
//! A template is a JSON value. `"{label}"` alone becomes the value with its JSON type; within other
//! text it becomes text. `{metadata.color}` is a field of a JSON value, `{status:upper}` is in
//! capitals, and `{{` and `}}` stand for braces. Where an operation has many rows, an array with one
//! element is repeated for each row.
//!
//! Names are checked when a template is parsed, so that one that is stored can always be filled.

mod schema;

use super::operation::{Kind, Named};
use serde_json::{Map, Value};

/// The longest template, in bytes of JSON; and the most levels of it.
pub const MAX_TEMPLATE_LEN: usize = 10_000;
/// The longest body. A template that repeats a long value ends soon after that length, and what it
/// leaves is no JSON.
pub const MAX_BODY_LEN: usize = 16 * 1024 * 1024;
const MAX_DEPTH: usize = 32;

/// The names that a template may use.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// Those that hold for the whole answer.
    pub whole: &'a [Named],
    /// Those of each row; `None` if the operation has no rows.
    pub row: Option<&'a [Named]>,
}

/// A checked template.
#[derive(Debug, PartialEq)]
pub struct Template(Node);

#[derive(Debug, PartialEq)]
enum Node {
    Constant(Value),
    Field(Field),
    Text(Vec<Piece>),
    Rows(Box<Node>),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Debug, PartialEq)]
struct Field {
    name: String,
    kind: Kind,
    may_be_null: bool,
    /// The names of fields inside a JSON value, from the outermost.
    within: Vec<String>,
    case: Case,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    AsIs,
    Upper,
    Lower,
}

#[derive(Debug, PartialEq)]
enum Piece {
    Literal(String),
    Field(Field),
}

/// A place in a template. Inside the array of rows other names are known.
#[derive(Clone, Copy)]
struct Place<'a> {
    names: Names<'a>,
    is_in_rows: bool,
    depth: usize,
}

impl Place<'_> {
    fn known(&self) -> impl Iterator<Item = &Named> {
        let row = self.names.row.filter(|_| self.is_in_rows).unwrap_or_default();
        self.names.whole.iter().chain(row)
    }
}

impl Template {
    /// Checks a template. The error completes "the template …".
    pub fn parse(template: &Value, names: Names) -> Result<Template, String> {
        let place = Place { names, is_in_rows: false, depth: 0 };
        Node::parse(template, place, "").map(Template)
    }

    /// The body as JSON text: `whole` has the values of the whole answer, and `rows` those of each
    /// row. A name without a value is null.
    pub fn fill(&self, whole: &Map<String, Value>, rows: &[Map<String, Value>]) -> String {
        let mut body = String::new();
        self.0.write(&mut body, whole, None, rows);
        body
    }
}

impl Node {
    fn parse(template: &Value, place: Place, path: &str) -> Result<Node, String> {
        if place.depth > MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH} levels"));
        }
        let below = Place { depth: place.depth + 1, ..place };
        match template {
            Value::String(text) => {
                let at = if path.is_empty() { String::new() } else { format!(" at {path}") };
                Node::of_text(text, place)
                    .map_err(|why| format!("has{at} the text {text:?}: {why}"))
            }
            Value::Array(elements) => match &elements[..] {
                [element] if place.names.row.is_some() && !place.is_in_rows => {
                    let inside = Place { is_in_rows: true, ..below };
                    let row = Node::parse(element, inside, &format!("{path}[]"))?;
                    Ok(Node::Rows(Box::new(row)))
                }
                elements => {
                    let parsed = elements.iter().enumerate();
                    let parsed =
                        parsed.map(|(n, e)| Node::parse(e, below, &format!("{path}[{n}]")));
                    parsed.collect::<Result<_, _>>().map(Node::Array)
                }
            },
            Value::Object(fields) => {
                let parsed = fields.iter().map(|(name, value)| {
                    let dot = if path.is_empty() { "" } else { "." };
                    let node = Node::parse(value, below, &format!("{path}{dot}{name}"))?;
                    Ok((name.clone(), node))
                });
                parsed.collect::<Result<_, String>>().map(Node::Object)
            }
            constant => Ok(Node::Constant(constant.clone())),
        }
    }

    fn of_text(text: &str, place: Place) -> Result<Node, String> {
        let mut pieces = pieces(text, place)?;
        match (pieces.pop(), &pieces[..]) {
            (None, _) => Ok(Node::Constant(Value::String(String::new()))),
            (Some(Piece::Literal(text)), []) => Ok(Node::Constant(Value::String(text))),
            (Some(Piece::Field(field)), []) => Ok(Node::Field(field)),
            (Some(last), _) => {
                pieces.push(last);
                Ok(Node::Text(pieces))
            }
        }
    }

    fn write(
        &self,
        body: &mut String,
        whole: &Map<String, Value>,
        row: Option<&Map<String, Value>>,
        rows: &[Map<String, Value>],
    ) {
        if body.len() > MAX_BODY_LEN {
            return;
        }
        let value = |field: &Field| {
            let value = row.and_then(|row| row.get(&field.name));
            let value = value.or_else(|| whole.get(&field.name))?;
            field.within.iter().try_fold(value, |value, name| value.get(name))
        };
        match self {
            Node::Constant(constant) => body.push_str(&constant.to_string()),
            Node::Field(field) => match value(field) {
                None => body.push_str("null"),
                Some(Value::String(text)) if field.case == Case::AsIs => put(body, text),
                Some(Value::String(text)) => put(body, &field.case.of(text)),
                Some(value) => body.push_str(&value.to_string()),
            },
            Node::Text(pieces) => {
                let text = pieces.iter().map(|piece| match piece {
                    Piece::Literal(text) => text.clone(),
                    Piece::Field(field) => match value(field) {
                        None | Some(Value::Null) => String::new(),
                        Some(Value::String(text)) => field.case.of(text),
                        Some(value) => value.to_string(),
                    },
                });
                put(body, &text.collect::<String>());
            }
            Node::Rows(node) => {
                list(body, '[', ']', rows, |body, row| node.write(body, whole, Some(row), rows));
            }
            Node::Array(nodes) => {
                list(body, '[', ']', nodes, |body, node| node.write(body, whole, row, rows));
            }
            Node::Object(fields) => list(body, '{', '}', fields, |body, (name, node)| {
                put(body, name);
                body.push(':');
                node.write(body, whole, row, rows);
            }),
        }
    }
}

/// Writes a text as JSON.
fn put(body: &mut String, text: &str) {
    // Any text can be written.
    body.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Writes elements between brackets, separated by commas.
fn list<T>(
    body: &mut String,
    open: char,
    close: char,
    elements: &[T],
    write: impl Fn(&mut String, &T),
) {
    body.push(open);
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        write(body, element);
    }
    body.push(close);
}

impl Case {
    fn of(self, text: &str) -> String {
        match self {
            Case::AsIs => text.into(),
            Case::Upper => text.to_uppercase(),
            Case::Lower => text.to_lowercase(),
        }
    }
}

fn pieces(text: &str, place: Place) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
            continue;
        }
        let Some((field, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err("write {{ or }} for a brace".into());
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Field(Field::parse(field, place)?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

impl Field {
    fn parse(field: &str, place: Place) -> Result<Field, String> {
        let (name, case) = match field.split_once(':') {
            None => (field, Case::AsIs),
            Some((name, "upper")) => (name, Case::Upper),
            Some((name, "lower")) => (name, Case::Lower),
            Some((_, other)) => {
                return Err(format!("write upper or lower after the colon, not {other:?}"));
            }
        };
        let (name, within) = match name.split_once('.') {
            None => (name, Vec::new()),
            Some((name, within)) => (name, within.split('.').map(String::from).collect()),
        };
        let Some(known) = place.known().find(|known| known.name == name) else {
            let is_of_rows = place.names.row.unwrap_or_default().iter().any(|of| of.name == name);
            let known: Vec<&str> = place.known().map(|known| known.name).collect();
            return Err(match is_of_rows {
                true => format!("{{{name}}} is of a row: write it inside an array of one element"),
                false => format!("there is no {{{name}}} here, only {}", known.join(", ")),
            });
        };
        if within.iter().any(String::is_empty) {
            return Err("write a name after the dot".into());
        }
        if !within.is_empty() && known.kind != Kind::Json {
            return Err(format!("{{{name}}} is no JSON value: it has no fields"));
        }
        let Named { kind, may_be_null, .. } = *known;
        Ok(Field { name: name.into(), kind, may_be_null, within, case })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const fn of(name: &'static str, kind: Kind) -> Named {
        Named { name, kind, may_be_null: true }
    }

    const ONE: Names = Names {
        whole: &[
            of("label", Kind::Text),
            of("status", Kind::Text),
            of("scopes", Kind::Texts),
            of("count", Kind::Integer),
            of("none", Kind::Text),
            of("data", Kind::Json),
        ],
        row: None,
    };
    const MANY: Names = Names {
        whole: &[of("page", Kind::Integer), of("total", Kind::Integer)],
        row: Some(&[of("label", Kind::Text), of("status", Kind::Text)]),
    };

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    fn read(body: &str) -> Value {
        serde_json::from_str(body).unwrap()
    }

    fn filled(template: Value) -> Value {
        let values = json!({"label": "a \"b\"", "status": "active", "scopes": ["x", "y"], "count": 7, "none": null, "data": {"a": {"b": "x"}, "n": 1}});
        read(&Template::parse(&template, ONE).unwrap().fill(&object(values), &[]))
    }

    #[test]
    fn a_field_alone_keeps_its_type() {
        let template = json!({"l": "{label}", "s": "{scopes}", "c": "{count}", "n": "{none}"});
        assert_eq!(filled(template), json!({"l": "a \"b\"", "s": ["x", "y"], "c": 7, "n": null}));
    }

    #[test]
    fn a_field_within_text_is_text() {
        let template = json!([
            "<{label}> {count}{none}.",
            "{status:upper}",
            "is {status:upper}",
            "{count:upper}",
            "{scopes}!"
        ]);
        let expected = json!(["<a \"b\"> 7.", "ACTIVE", "is ACTIVE", 7, "[\"x\",\"y\"]!"]);
        assert_eq!(filled(template), expected);
    }

    #[test]
    fn a_field_of_a_json_value() {
        let template = json!([
            "{data.n}",
            "{data.a.b:upper}",
            "{data.a}",
            "{data.c}",
            "{data.n.x}",
            "<{data.c.d}>"
        ]);
        assert_eq!(filled(template), json!([1, "X", {"b": "x"}, null, null, "<>"]));
    }

    #[test]
    fn constants_and_braces_stay() {
        let template = json!({"a": [1, null, true, ""], "{{b}}": {"c": "{{label}} }}{{"}});
        assert_eq!(
            filled(template),
            json!({"a": [1, null, true, ""], "{{b}}": {"c": "{label} }{"}})
        );
    }

    #[test]
    fn values_are_not_templates() {
        let values = object(json!({"label": "{status}", "status": "s"}));
        let template = Template::parse(&json!("{label} {status}"), ONE).unwrap();
        assert_eq!(read(&template.fill(&values, &[])), json!("{status} s"));
    }

    #[test]
    fn an_array_of_one_element_is_repeated_for_each_row() {
        let rows: Vec<_> =
            ["one", "two"].map(|label| object(json!({"label": label, "status": "x"}))).into();
        let whole = object(json!({"page": 1, "total": 2}));
        let template = json!({"data": [{"l": "{label}", "p": "{page}", "in": ["{status}"]}], "meta": ["{page}", "{total}"]});
        let template = Template::parse(&template, MANY).unwrap();
        let row = |label| json!({"l": label, "p": 1, "in": ["x"]});
        let expected = json!({"data": [row("one"), row("two")], "meta": [1, 2]});
        assert_eq!(read(&template.fill(&whole, &rows)), expected);
        assert_eq!(read(&template.fill(&whole, &[])), json!({"data": [], "meta": [1, 2]}));
    }

    #[test]
    fn an_answer_without_rows_repeats_nothing() {
        assert_eq!(filled(json!(["{count}"])), json!([7]));
    }

    #[test]
    fn what_cannot_be_filled_is_an_error() {
        let refused = |template, names| Template::parse(&template, names).unwrap_err();
        assert_eq!(
            refused(json!({"a": [{"b": "{digest}"}]}), ONE),
            "has at a[0].b the text \"{digest}\": there is no {digest} here, only label, status, scopes, count, none, data"
        );
        let outside = refused(json!({"l": "{label}"}), MANY);
        assert!(outside.contains("is of a row"), "{outside}");
        for text in [
            "{",
            "}",
            "{label",
            "label}",
            "{label}}",
            "{{label}",
            "{label:title}",
            "{}",
            "{ label}",
            "{label.a}",
            "{data.}",
            "{data..a}",
            "{.a}",
        ] {
            let why = refused(json!(text), ONE);
            assert!(why.contains(&format!("{text:?}")), "{why}");
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner, 2]));
        assert!(refused(deep, ONE).contains("deeper than 32 levels"));
    }
}
