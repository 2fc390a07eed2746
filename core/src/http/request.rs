//! The arguments of an operation, from the body and the query of a request.
//!
//! A mapping says which fields a request may have: `{"label": "name"}` takes the argument `label`
//! from the field `name`, `{"kind": {"is": "secret"}}` fixes an argument, and `{"*": "ignore"}`
//! ignores other fields. Without a mapping the fields are called as the arguments.

use super::operation::{Kind, Named, Operation};
use super::time::is_rfc3339;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The longest mapping, in bytes of JSON.
pub const MAX_MAPPING_LEN: usize = 10_000;

/// A checked mapping.
#[derive(Debug)]
pub struct Mapping {
    operation: Operation,
    /// Arguments and their fields.
    pub fields: Vec<(Named, Cow<'static, str>)>,
    fixed: Vec<(&'static str, Value)>,
    pub ignores_others: bool,
}

impl Mapping {
    /// The fields are called as the arguments that are for clients.
    pub fn usual(operation: Operation) -> Mapping {
        let field = |argument: &Named| (*argument, Cow::Borrowed(argument.name));
        let fields = operation.arguments().iter();
        let fields =
            fields.filter(|argument| operation.is_for_clients(argument.name)).map(field).collect();
        Mapping { operation, fields, fixed: Vec::new(), ignores_others: false }
    }

    /// Checks a mapping. The error completes "request …".
    pub fn parse(mapping: &Value, operation: Operation) -> Result<Mapping, String> {
        const RULE: &str = "must be an object such as {\"label\": \"name\"}: arguments and the \
                            fields that they come from";
        let Value::Object(entries) = mapping else { return Err(RULE.into()) };
        let mut read =
            Mapping { operation, fields: Vec::new(), fixed: Vec::new(), ignores_others: false };
        for (name, from) in entries {
            if name == "*" {
                if from != "ignore" {
                    return Err("may have under \"*\" the text \"ignore\" only".into());
                }
                read.ignores_others = true;
                continue;
            }
            let Some(argument) = operation.argument(name) else {
                let known: Vec<&str> =
                    operation.arguments().iter().map(|argument| argument.name).collect();
                let known = match &known[..] {
                    [] => "no arguments".into(),
                    known => format!("only {}", known.join(", ")),
                };
                return Err(format!("names {name:?}; {} has {known}", operation.name()));
            };
            match from {
                Value::String(field) if is_field(field) => {
                    if read.fields.iter().any(|(_, known)| known == field) {
                        return Err(format!("takes two arguments from the field {field:?}"));
                    }
                    read.fields.push((argument, field.clone().into()));
                }
                Value::Object(fixed) if fixed.len() == 1 && fixed.contains_key("is") => {
                    let value = converted(argument, &fixed["is"], "the value")
                        .map_err(|fault| format!("fixes {name}: {}", fault.message))?;
                    read.fixed.push((argument.name, value));
                }
                _ => {
                    return Err(format!(
                        "must have for {name} the name of a field, of 1 to 100 characters, or \
                         {{\"is\": a value}}"
                    ));
                }
            }
        }
        Ok(read)
    }

    /// The field that an argument comes from.
    pub fn field_of(&self, argument: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.name == argument).map(|(_, field)| &**field)
    }

    /// The arguments of a request. A field of the query is text, which becomes the argument's type.
    pub fn arguments(
        &self,
        body: Option<&Value>,
        query: Vec<(String, String)>,
    ) -> Result<Map<String, Value>, Fault> {
        let mut arguments = Map::new();
        let empty = Map::new();
        let body = match body {
            None => &empty,
            Some(Value::Object(body)) => body,
            Some(_) => return Err(Fault::of("the body must be a JSON object")),
        };
        for (name, value) in body {
            if let Some(argument) = self.argument_of(name)? {
                let value = converted(argument, value, name)?;
                arguments.insert(argument.name.into(), value);
            }
        }
        for (name, text) in query {
            if body.contains_key(&name) {
                return Err(Fault::of(format!("{name} is in the body and in the query")));
            }
            if let Some(argument) = self.argument_of(&name)? {
                let value = converted(argument, &from_text(argument.kind, text), &name)?;
                arguments.insert(argument.name.into(), value);
            }
        }
        arguments.extend(self.fixed.iter().map(|(name, value)| ((*name).into(), value.clone())));
        Ok(arguments)
    }

    /// The argument that a field gives; `None` if the field is to be ignored.
    fn argument_of(&self, field: &str) -> Result<Option<Named>, Fault> {
        let found = self.fields.iter().find(|(_, known)| known == field);
        match found {
            Some((argument, _)) => Ok(Some(*argument)),
            None if self.ignores_others => Ok(None),
            None => {
                let known: Vec<&str> = self.fields.iter().map(|(_, field)| &**field).collect();
                let shown: String = field.chars().take(60).collect();
                Err(Fault::of(match &known[..] {
                    [] => format!("{shown:?} is not known here: this request takes no fields"),
                    known => format!("{shown:?} is not known here, only {}", known.join(", ")),
                }))
            }
        }
    }

    pub fn operation(&self) -> Operation {
        self.operation
    }
}

/// What is wrong with a request, for its sender.
#[derive(Debug, PartialEq)]
pub struct Fault {
    pub message: String,
}

impl Fault {
    fn of(message: impl Into<String>) -> Fault {
        Fault { message: message.into() }
    }
}

fn is_field(name: &str) -> bool {
    (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

/// Checks the JSON type of a value. Its content is checked by the operation.
fn converted(argument: Named, value: &Value, field: &str) -> Result<Value, Fault> {
    let is_text = |value: &Value| matches!(value, Value::String(text) if !text.contains('\0'));
    let (is_good, rule) = match argument.kind {
        // JSON can write the character 0, which PostgreSQL's text can't have.
        Kind::Text | Kind::Interval | Kind::Uuid => (is_text(value), "a string"),
        Kind::Moment => (
            value.as_str().is_some_and(is_rfc3339),
            "a time as RFC 3339 writes it, such as 2030-01-31T12:00:00Z",
        ),
        Kind::Texts | Kind::Networks => {
            (value.as_array().is_some_and(|list| list.iter().all(is_text)), "an array of strings")
        }
        Kind::Integer => (
            value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "an integer of at most 32 bits",
        ),
        Kind::Number => (value.is_number(), "a number"),
        Kind::Boolean => (value.is_boolean(), "true or false"),
        Kind::Json => (true, "a JSON value"),
    };
    if is_good || value.is_null() {
        return Ok(value.clone());
    }
    Err(Fault::of(format!("{field} must be {rule}")))
}

/// The value that a text in a query stands for.
fn from_text(kind: Kind, text: String) -> Value {
    match kind {
        Kind::Integer => text.parse::<i64>().map_or(Value::String(text), Value::from),
        Kind::Number => text.parse::<f64>().map_or(Value::String(text), Value::from),
        Kind::Boolean => text.parse::<bool>().map_or(Value::String(text), Value::from),
        Kind::Texts | Kind::Networks => {
            text.split(',').filter(|part| !part.is_empty()).map(Value::from).collect()
        }
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapping(operation: Operation, mapping: Value) -> Mapping {
        Mapping::parse(&mapping, operation).unwrap()
    }

    fn taken(mapping: &Mapping, body: Value) -> Result<Value, String> {
        let taken = mapping.arguments(Some(&body), Vec::new());
        taken.map(Value::Object).map_err(|fault| fault.message)
    }

    #[test]
    fn without_a_mapping_fields_are_called_as_the_arguments() {
        let usual = Mapping::usual(Operation::Mint);
        let body = json!({"label": "a", "scopes": ["x"], "metadata": {"k": 1}});
        assert_eq!(taken(&usual, body.clone()), Ok(body));
        assert_eq!(usual.arguments(None, Vec::new()), Ok(Map::new()));
        assert_eq!(
            taken(&Mapping::usual(Operation::Disable), json!({"label": "a"})),
            Err("\"label\" is not known here: this request takes no fields".into())
        );
    }

    #[test]
    fn a_mapping_lists_the_fields_that_are_taken() {
        let by_name = mapping(Operation::Mint, json!({"label": "name"}));
        assert_eq!(taken(&by_name, json!({"name": "a"})), Ok(json!({"label": "a"})));
        for other in ["label", "scopes", "keyspace", "tenant"] {
            let refused = taken(&by_name, json!({other: "a"})).unwrap_err();
            assert!(refused.contains("only name"), "{refused}");
        }
        let lenient = mapping(Operation::Mint, json!({"label": "name", "*": "ignore"}));
        assert_eq!(taken(&lenient, json!({"name": "a", "x": 1})), Ok(json!({"label": "a"})));
        assert_eq!(taken(&mapping(Operation::Mint, json!({})), json!({})), Ok(json!({})));
        assert!(taken(&mapping(Operation::Mint, json!({})), json!({"label": "a"})).is_err());
    }

    #[test]
    fn an_argument_may_be_fixed() {
        let fixed = mapping(Operation::ListKeys, json!({"kind": {"is": "secret"}, "page": "page"}));
        assert_eq!(taken(&fixed, json!({"page": 2})), Ok(json!({"kind": "secret", "page": 2})));
        assert!(taken(&fixed, json!({"kind": "publishable"})).is_err());
    }

    #[test]
    fn the_query_gives_arguments_too() {
        let logs = mapping(Operation::UsageLogs, json!({"page": "page", "per_page": "limit"}));
        let query = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            logs.arguments(None, fields.collect()).map_err(|fault| fault.message)
        };
        let expected = json!({"page": 2, "per_page": 10});
        assert_eq!(query(&[("page", "2"), ("limit", "10")]).map(Value::Object), Ok(expected));
        for bad in ["", "x", "1.5", "99999999999", "1e3"] {
            assert_eq!(
                query(&[("page", bad)]),
                Err("page must be an integer of at most 32 bits".into()),
                "{bad}"
            );
        }
        assert!(query(&[("per_page", "1")]).is_err());
        let both = logs.arguments(Some(&json!({"page": 1})), vec![("page".into(), "1".into())]);
        assert_eq!(both, Err(Fault::of("page is in the body and in the query")));
        let list = Mapping::usual(Operation::ListKeys);
        let flag = list.arguments(None, vec![("include_revoked".into(), "true".into())]);
        assert_eq!(flag.map(Value::Object), Ok(json!({"include_revoked": true})));
    }

    #[test]
    fn values_have_the_type_of_their_argument() {
        let usual = Mapping::usual(Operation::Mint);
        for (field, good, bad) in [
            ("label", json!("a"), vec![json!(1), json!(["a"]), json!({}), json!("a\0")]),
            ("scopes", json!(["a"]), vec![json!("a"), json!([1]), json!([null]), json!({"a": 1})]),
            ("allowlist", json!([]), vec![json!("10.0.0.0/8"), json!([["x"]])]),
            (
                "expires_at",
                json!("2030-01-31T12:00:00Z"),
                vec![json!("tomorrow"), json!("infinity"), json!(1893456000)],
            ),
        ] {
            assert_eq!(taken(&usual, json!({field: good})), Ok(json!({field: good})));
            assert_eq!(taken(&usual, json!({field: null})), Ok(json!({field: null})));
            for bad in bad {
                let refused = taken(&usual, json!({field: bad})).unwrap_err();
                assert!(refused.starts_with(&format!("{field} must be ")), "{refused}");
            }
        }
    }

    #[test]
    fn a_body_is_an_object() {
        for body in [json!([]), json!("x"), json!(1), json!(true)] {
            let refused = taken(&Mapping::usual(Operation::Mint), body).unwrap_err();
            assert_eq!(refused, "the body must be a JSON object");
        }
    }

    #[test]
    fn a_mapping_that_cannot_be_meant_is_an_error() {
        let refused = |mapping| Mapping::parse(&mapping, Operation::Mint).unwrap_err();
        assert!(refused(json!({"digest": "d"})).contains("mint has only label, environment"));
        for bad in [
            json!([]),
            json!("label"),
            json!(null),
            json!({"label": ""}),
            json!({"label": 1}),
            json!({"label": null}),
            json!({"label": {"is": 1}}),
            json!({"label": {"is": "a", "b": 1}}),
            json!({"label": {}}),
            json!({"label": "a\n"}),
            json!({"label": "x", "role": "x"}),
            json!({"*": "accept"}),
            json!({"tenant": "t"}),
            json!({"expires_at": {"is": "tomorrow"}}),
        ] {
            refused(bad);
        }
    }
}
