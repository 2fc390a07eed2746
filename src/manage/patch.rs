//! A patch: a JSON object that names what changes, and leaves all else as it is.
//! A field that nobody knows, or of the wrong type, is an error.

use super::metadata;
use pg::call::must_not_be_null;
use pg::error::{Error, Result};
use pg::jsonb::Jsonb;
use serde_json::{Map, Value};

pub struct Patch<'a> {
    name: &'static str,
    /// What it was read from, unless it is a part of another.
    json: Option<Jsonb<'a>>,
    fields: Map<String, Value>,
    known: Vec<&'static str>,
}

/// A field's change: absent, null, or a value.
pub type Change<T> = Option<Option<T>>;

impl<'a> Patch<'a> {
    /// Reads a jsonb argument.
    pub fn read(name: &'static str, json: Option<Jsonb<'a>>) -> Result<Patch<'a>> {
        let json = json.ok_or_else(|| must_not_be_null(name))?;
        match parse(name, json)? {
            Value::Object(fields) => Ok(Patch { json: Some(json), ..Patch::new(name, fields) }),
            _ => Err(Error::argument(name, "must be a JSON object")),
        }
    }

    /// Reads the fields of an object inside of one.
    pub fn new(name: &'static str, fields: Map<String, Value>) -> Patch<'a> {
        Patch { name, json: None, fields, known: Vec::new() }
    }

    fn take(&mut self, field: &'static str) -> Option<Value> {
        self.known.push(field);
        self.fields.remove(field)
    }

    fn mistyped(&self, field: &str, expected: &str) -> Error {
        Error::argument(&format!("{}.{field}", self.name), format!("must be {expected}"))
    }

    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    pub fn boolean(&mut self, field: &'static str) -> Result<Change<bool>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::Bool(value)) => Ok(Some(Some(value))),
            Some(_) => Err(self.mistyped(field, "true, false or null")),
        }
    }

    /// A field whose form its owner checks.
    pub fn value(&mut self, field: &'static str) -> Result<Option<Value>> {
        Ok(self.take(field))
    }

    pub fn text(&mut self, field: &'static str) -> Result<Change<String>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => Ok(Some(Some(text))),
            Some(_) => Err(self.mistyped(field, "a string or null")),
        }
    }

    /// A list of strings; null means an empty one.
    pub fn texts(&mut self, field: &'static str) -> Result<Option<Vec<String>>> {
        if self.is_null(field) {
            self.take(field);
            return Ok(Some(Vec::new()));
        }
        self.list(field)
    }

    /// The same where an empty one may give everything: a null, which a variable that is
    /// not set leaves, must not.
    pub fn list(&mut self, field: &'static str) -> Result<Option<Vec<String>>> {
        const EXPECTED: &str = "an array of strings";
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(self.mistyped(field, EXPECTED)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(_) => Err(self.mistyped(field, EXPECTED)),
        }
    }

    pub fn integer(&mut self, field: &'static str) -> Result<Change<i32>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => match value.as_i64().map(i32::try_from) {
                Some(Ok(integer)) => Ok(Some(Some(integer))),
                _ => Err(self.mistyped(field, "an integer or null")),
            },
        }
    }

    pub fn bigint(&mut self, field: &'static str) -> Result<Change<i64>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => match value.as_i64() {
                Some(integer) => Ok(Some(Some(integer))),
                None => Err(self.mistyped(field, "an integer or null")),
            },
        }
    }

    /// Whether a field is there, and an object or null. SQL takes the value from the
    /// patch itself, which keeps every digit of its numbers.
    pub fn object(&mut self, field: &'static str) -> Result<bool> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Null) => Ok(true),
            Some(Value::Object(_)) => {
                // As it would be stored: numbers of Rust have fewer digits.
                let size = self.json.and_then(|patch| patch.length_of(field));
                metadata::check_size(field, size.unwrap_or(usize::MAX))?;
                Ok(true)
            }
            Some(_) => Err(self.mistyped(field, "a JSON object or null")),
        }
    }

    /// Must follow the last field: whatever was not taken is unknown.
    pub fn finish(self) -> Result<()> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let shown: String = unknown.chars().take(60).collect();
                Err(Error::argument(self.name, format!("has an unknown field {shown:?}"))
                    .hint(format!("The fields are: {}.", self.known.join(", "))))
            }
        }
    }
}

/// More than anyone means to change at once.
const MOST: usize = 1024 * 1024;

/// A jsonb value as Rust has it.
pub fn parse(name: &str, json: Jsonb) -> Result<Value> {
    if json.length() > MOST {
        return Err(Error::argument(name, "must have at most 1 MB"));
    }
    let text = json.text().ok_or_else(|| Error::argument(name, "must have a UTF-8 form"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::argument(name, "must be plain JSON").detail(error.to_string()))
}
