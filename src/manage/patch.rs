//! A patch: a JSON object that names what changes, and leaves all else as it is. Each field is
//! a column of a row.

use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// A field of a patch.
#[derive(Clone, Copy, Default, Serialize)]
pub enum Patch<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<T> Patch<T> {
    pub fn is_absent(&self) -> bool {
        matches!(self, Patch::Absent)
    }

    /// The new value, if the field is there; it may be null.
    pub fn change(&self) -> Option<Option<&T>> {
        match self {
            Patch::Absent => None,
            Patch::Null => Some(None),
            Patch::Value(value) => Some(Some(value)),
        }
    }

    /// The new value, unless it is null.
    pub fn value(&self) -> Option<&T> {
        self.change().flatten()
    }
}

impl Patch<String> {
    pub fn text(&self) -> Option<&str> {
        self.value().map(String::as_str)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Patch::Null, Patch::Value))
    }
}

/// Reads a field that must not be null. Of some fields an empty value allows everything: a
/// null, which an unset variable of a program leaves, must not do that.
pub fn not_null<'de, T, D>(deserializer: D) -> Result<Patch<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Patch::Value)
}

/// Values by the names of their columns.
pub type Columns = Map<String, Value>;

/// The fields of a Rust value. So the names of columns come from our types, never from callers.
pub fn record(object: &impl Serialize) -> Result<Columns> {
    match serde_json::to_value(object) {
        Ok(Value::Object(columns)) => Ok(columns),
        _ => Err(Error::new(Code::Installation, "a record can't be written as JSON")),
    }
}

/// The columns that a patch changes.
pub fn columns(patch: &impl Serialize) -> Result<Columns> {
    // An enum is written as the name of its variant, or as an object of that name and the value.
    let change = |(column, field)| match field {
        Value::Object(mut field) => field.remove("Value").map(|value| (column, value)),
        field if field == "Null" => Some((column, Value::Null)),
        _ => None,
    };
    Ok(record(patch)?.into_iter().filter_map(change).collect())
}

/// Changes columns of a row. A null sets the column's default. `more` is another assignment,
/// and the value of its `$3`.
pub fn update(
    table: &'static str,
    (key, id): (&'static str, Param),
    columns: Columns,
    more: Option<(&'static str, Param)>,
) -> Result<()> {
    let assignment = |(column, value): (&String, &Value)| match value {
        Value::Null => format!("{column} = DEFAULT"),
        _ => format!("{column} = n.{column}"),
    };
    let mut assignments: Vec<String> = columns.iter().map(assignment).collect();
    assignments.extend(more.map(|(assignment, _)| assignment.into()));
    if assignments.is_empty() {
        return Ok(());
    }
    let record = Value::Object(columns).to_string();
    let mut params = vec![id, Param::text(&record)];
    params.extend(more.map(|(_, value)| value));
    let statement = format!(
        "UPDATE {table} t SET {} FROM pg_catalog.jsonb_populate_record(NULL::{table}, $2::jsonb) n
         WHERE t.{key} = $1",
        assignments.join(", ")
    );
    spi::execute(&statement, &params).map(|_| ())
}
