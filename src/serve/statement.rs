//! Calls of our own SQL functions, with the caller's rights.

use keysmith_core::http::operation::Kind;
use pg::error::Result;
use pg::role;
use pg::settings::in_utc;
use pg::spi::{self, Param, Rows};
use serde_json::{Map, Value};

/// A call of a function by named arguments.
pub struct Statement {
    arguments: Vec<String>,
    values: Vec<Given>,
}

enum Given {
    Text(String),
    /// A text in the database's encoding.
    ServerText(Box<[u8]>),
    Texts(Vec<String>),
    Uuid([u8; 16]),
}

impl Statement {
    pub fn new() -> Statement {
        Statement { arguments: Vec::new(), values: Vec::new() }
    }

    /// The place of a value, such as `$1`.
    fn place(&mut self, value: Given) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn argument(&mut self, name: &str, value: Given, cast: &str) {
        let place = self.place(value);
        self.arguments.push(format!("{name} => {place}{cast}"));
    }

    pub fn uuid(mut self, name: &str, value: [u8; 16]) -> Statement {
        self.argument(name, Given::Uuid(value), "");
        self
    }

    pub fn server_text(mut self, name: &str, value: &[u8]) -> Statement {
        self.argument(name, Given::ServerText(value.into()), "");
        self
    }

    pub fn json(mut self, name: &str, value: &Value) -> Statement {
        self.argument(name, Given::Text(value.to_string()), "::pg_catalog.jsonb");
        self
    }

    /// Adds arguments whose JSON types were checked.
    pub fn arguments(
        mut self,
        arguments: &Map<String, Value>,
        kind: impl Fn(&str) -> Option<Kind>,
    ) -> Statement {
        for (name, value) in arguments {
            let Some(kind) = kind(name) else { continue };
            let text = || value.as_str().map_or_else(|| value.to_string(), String::from);
            let texts = || {
                let list = value.as_array().into_iter().flatten();
                list.filter_map(Value::as_str).map(String::from).collect()
            };
            match kind {
                _ if value.is_null() => self.arguments.push(format!("{name} => NULL")),
                Kind::Texts => self.argument(name, Given::Texts(texts()), ""),
                Kind::Networks => self.argument(name, Given::Texts(texts()), "::pg_catalog.cidr[]"),
                Kind::Json => {
                    self.argument(name, Given::Text(value.to_string()), "::pg_catalog.jsonb");
                }
                Kind::Text => self.argument(name, Given::Text(text()), ""),
                Kind::Uuid => self.argument(name, Given::Text(text()), "::pg_catalog.uuid"),
                Kind::Integer => self.argument(name, Given::Text(text()), "::pg_catalog.int4"),
                Kind::Number => self.argument(name, Given::Text(text()), "::pg_catalog.float8"),
                Kind::Boolean => self.argument(name, Given::Text(text()), "::pg_catalog.bool"),
                Kind::Moment => {
                    self.argument(name, Given::Text(text()), "::pg_catalog.timestamptz")
                }
                Kind::Interval => self.argument(name, Given::Text(text()), "::pg_catalog.interval"),
            }
        }
        self
    }

    /// Runs a statement in which `{}` stands for the arguments. The caller's search path does not
    /// matter, and times are in UTC.
    pub fn run<T>(&self, statement: &str, with: impl FnOnce(&Rows) -> T) -> Result<T> {
        let statement = statement.replacen("{}", &self.arguments.join(", "), 1);
        let params: Vec<Param> = self
            .values
            .iter()
            .map(|value| match value {
                Given::Text(text) => Param::text(text),
                Given::ServerText(text) => Param::server_text(Some(text)),
                Given::Texts(texts) => Param::texts(texts),
                Given::Uuid(uuid) => Param::uuid(uuid),
            })
            .collect();
        role::as_user(role::current(), 0, || {
            in_utc();
            spi::query(&statement, &params, with)
        })
    }
}
