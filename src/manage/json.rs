//! JSON arguments, read by serde.
//!
//! An error names the place, such as `limits[2].window`, and says what is accepted there. It
//! shows no value. Of a field that is not known it shows the name, at most 60 characters of it.

use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};
use pg::jsonb::Jsonb;
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, map};
use std::fmt::{self, Display, Formatter};
use std::vec;

/// Reads a jsonb argument, which may be null.
pub fn argument<T: DeserializeOwned>(call: &Call, n: usize, name: &str) -> Result<Option<T>> {
    value(call, n, name)?.map(|value| from_value(name, value)).transpose()
}

/// Reads a jsonb argument that must not be null.
pub fn required<T: DeserializeOwned>(call: &Call, n: usize, name: &str) -> Result<T> {
    argument(call, n, name)?.ok_or_else(|| must_not_be_null(name))
}

/// A jsonb argument as serde_json has it.
pub fn value(call: &Call, n: usize, name: &str) -> Result<Option<Value>> {
    call.jsonb(n).map(|json| parse(name, json)).transpose()
}

/// Reads a value. `place` names it; it is empty for an object of arguments.
pub fn from_value<T: DeserializeOwned>(place: &str, value: Value) -> Result<T> {
    T::deserialize(Node(value)).map_err(|fault| fault.at(place))
}

/// Reads the text of a JSON value.
pub fn from_text<T: DeserializeOwned>(place: &str, text: &str) -> Result<T> {
    let value = serde_json::from_str(text)
        .map_err(|error| Error::argument(place, "must be plain JSON").detail(error.to_string()))?;
    from_value(place, value)
}

/// The error for a value whose text programs can't read.
pub fn not_plain(name: &str) -> Error {
    Error::argument(name, "must be plain JSON").hint(
        "Numbers are at most those of a double, and values are nested at most 100 levels deep.",
    )
}

fn parse(name: &str, json: Jsonb) -> Result<Value> {
    /// More than anyone means to give in one argument.
    const MOST: usize = 1024 * 1024;
    if json.length() > MOST {
        return Err(Error::argument(name, "must have at most 1 MB"));
    }
    // serde_json reads 127 levels.
    if !json.is_plain(127) {
        return Err(not_plain(name));
    }
    let text = json.text().ok_or_else(|| Error::argument(name, "must have a UTF-8 form"))?;
    from_text(name, &text)
}

/// Why a value can't be used, and where it is.
#[derive(Debug)]
pub struct Fault {
    /// From the argument to the value, such as `[2].window`.
    path: String,
    /// It follows the path: `must be an integer`.
    rule: String,
    hint: Option<String>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The value has another type.
    Type,
    /// The value, or the name of a field, breaks a rule.
    Rule,
    /// The object lacks a field, or has one that is not known.
    Fields,
}

impl Fault {
    fn new(kind: Kind, rule: String) -> Fault {
        Fault { path: String::new(), rule, hint: None, kind }
    }

    fn mistyped(expected: &dyn Expected) -> Fault {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "i64" => "an integer",
            "a sequence" => "an array",
            "a map" => "a JSON object",
            known if known.starts_with("struct ") => "a JSON object",
            known => known,
        };
        Fault::new(Kind::Type, format!("must be {expected}"))
    }

    /// The value is inside another.
    fn within(mut self, step: &str) -> Fault {
        self.path.insert_str(0, step);
        self
    }

    /// Null is accepted in place of the value.
    fn or_null(mut self) -> Fault {
        if self.kind == Kind::Type && self.path.is_empty() {
            self.rule.push_str(" or null");
        }
        self
    }

    /// The value is the name of a field.
    fn of_field(self, name: &str) -> Fault {
        match self.kind {
            Kind::Fields => self,
            _ => Fault {
                rule: format!("has a field {:?} that {}", excerpt(name), self.rule),
                kind: Kind::Fields,
                ..self
            },
        }
    }

    fn at(self, place: &str) -> Error {
        let path = format!("{place}{}", self.path);
        let error = Error::argument(path.trim_start_matches('.'), self.rule);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

impl de::Error for Fault {
    fn custom<T: Display>(rule: T) -> Fault {
        Fault::new(Kind::Rule, rule.to_string())
    }

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Fault {
        Fault::mistyped(expected)
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Fault {
        Fault::new(Kind::Rule, format!("must be one of: {}", known.join(", ")))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Fault {
        let fault = Fault::new(Kind::Fields, format!("has an unknown field {:?}", excerpt(field)));
        Fault { hint: Some(format!("The fields are: {}.", known.join(", "))), ..fault }
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::new(Kind::Fields, format!("must have a field {field:?}"))
    }
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        write!(formatter, "{} {}", self.path, self.rule)
    }
}

impl std::error::Error for Fault {}

/// A JSON value that serde reads from.
struct Node(Value);

impl<'de> Deserializer<'de> for Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => visitor.visit_i64(integer),
                None => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.into_iter(), next: 0 }),
            Value::Object(fields) => visitor.visit_map(Fields::of(fields)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self).map_err(Fault::or_null),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// An object. Serde would read an array too, its elements as the fields in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Object(fields) => visitor.visit_map(Fields::of(fields)),
            _ => Err(Fault::mistyped(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => {
                let text: StringDeserializer<Fault> = text.into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(de::Error::unknown_variant("", known)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items {
    items: vec::IntoIter<Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let n = self.next;
        self.next += 1;
        seed.deserialize(Node(item)).map(Some).map_err(|fault| fault.within(&format!("[{n}]")))
    }
}

struct Fields {
    fields: map::IntoIter,
    current: Option<(String, Value)>,
}

impl Fields {
    fn of(fields: Map<String, Value>) -> Fields {
        Fields { fields: fields.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.current = self.fields.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        let text: StrDeserializer<Fault> = name.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|fault| fault.of_field(name))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (name, value) = self.current.take().unwrap_or_default();
        seed.deserialize(Node(value)).map_err(|fault| fault.within(&format!(".{name}")))
    }
}
