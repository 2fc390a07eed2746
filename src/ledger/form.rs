//! How rows of a table are hashed.

use super::entry::Ledger;
use crate::rows::canonical::{CanonicalColumn, with_settings};
use keysmith_core::ledger::range::{Kind, Ranges};
use keysmith_core::ledger::row::RowPlan;
use keysmith_core::ledger::sum::Sum;
use pg::context::Owned;
use pg::error::{Code, Error, Result};
use pg::relation::{RelationView, column_name, has_plain_column, is_generated};
use pg::text;
use pg::types;
use pg::value::Value;
use pgrx::pg_sys::{self, Oid};
use std::rc::Rc;

pub struct RowForm {
    columns: Vec<CanonicalColumn>,
    plan: RowPlan,
    /// The place of the column that says which range a row is in.
    key: usize,
    ranges: Ranges,
    /// The greatest number of these columns.
    pub last: i16,
    needs_settings: bool,
}

impl RowForm {
    /// The form of the rows of a ledger's table, or of a part of it. `names` are the columns that it
    /// covers; an empty list means all that the ledger's table has.
    pub fn of(ledger: &Ledger, part: RelationView, names: &[String]) -> Result<RowForm> {
        let columns = covered(ledger.entry.relation, part, names);
        if !names.is_empty() && columns.len() != names.len() {
            return Err(unfit("a column that it covers is not there"));
        }
        let kinds: Vec<Vec<u8>> = columns.iter().map(|column| type_in_mark(column.oid())).collect();
        let named: Vec<(&[u8], &[u8])> =
            columns.iter().zip(&kinds).map(|(column, kind)| (&*column.name, &**kind)).collect();
        let plan = RowPlan::of(&ledger.keys, &named);
        let key = ledger.entry.key_column.as_bytes();
        let key = columns.iter().position(|column| column.name == key);
        let key = key.ok_or_else(|| unfit("the first column of its primary key is not there"))?;
        let kind = columns.get(key).map_or(Kind::Other, |column| kind(column.oid()));
        let last = columns.iter().map(|column| column.number).max().unwrap_or_default();
        let needs_settings = columns.iter().any(CanonicalColumn::needs_settings);
        let ranges = Ranges { kind, shift: ledger.entry.shift };
        Ok(RowForm { columns, plan, key, ranges, last, needs_settings })
    }

    /// The range that a row is in, and its hash.
    #[inline]
    pub fn hash<'a>(&self, value: impl Fn(i16) -> Option<Value<'a>>) -> (u64, Sum) {
        let mut row = self.plan.begin();
        let mut range = 0;
        for planned in self.plan.columns() {
            let Some(column) = self.columns.get(planned.place) else { continue };
            let Some(value) = value(column.number) else { continue };
            column.write(value, |content| {
                if planned.place == self.key {
                    range = self.ranges.range(content);
                }
                row.value(planned, content);
            });
        }
        (range, row.finish())
    }

    /// Runs `body`, in which rows are hashed.
    pub fn with_settings<T>(&self, body: impl FnOnce() -> T) -> T {
        with_settings(self.needs_settings, body)
    }
}

/// The columns of a part that the ledger of a table covers. A child table may have columns of its
/// own, which it does not cover.
pub fn covered(table: Oid, part: RelationView, names: &[String]) -> Vec<CanonicalColumn> {
    let memory = Rc::new(Owned::new());
    let is_own = part.oid() == table;
    let is_covered = |column: &pg_sys::FormData_pg_attribute| {
        let name = column_name(column);
        if !names.is_empty() {
            return names.contains(&name);
        }
        // A part may generate a column that its table does not.
        if is_own {
            !is_generated(column)
        } else {
            has_plain_column(table, &text::to_server(&name))
        }
    };
    let columns = part.description().columns().filter(|column| is_covered(column));
    columns.map(|column| CanonicalColumn::of(column, &memory)).collect()
}

/// The kind of a type, by which keys are divided into ranges.
pub fn kind(column: Oid) -> Kind {
    match types::base(column) {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Kind::Integer,
        pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Kind::Timestamp,
        pg_sys::DATEOID => Kind::Date,
        pg_sys::UUIDOID | pg_sys::BYTEAOID | pg_sys::TEXTOID | pg_sys::VARCHAROID => Kind::Bytes,
        _ => Kind::Other,
    }
}

/// A type as the mark of a column has it: its name, and what the values of a type of that name are
/// made of. The owner of a type could give its name to another.
fn type_in_mark(kind: Oid) -> Vec<u8> {
    let mut written = text::utf8(&types::name(kind, None)).into_owned();
    let base = types::base(kind);
    if base != kind {
        written.extend_from_slice(b" over ");
        written.extend(type_in_mark(base));
    } else if let Some(inner) = types::inner(kind) {
        // The name of a built-in type says all.
        if inner.to_u32() >= pg_sys::FirstNormalObjectId {
            written.push(b' ');
            written.extend(type_in_mark(inner));
        }
    } else if types::is_composite(kind) {
        let attribute = |(name, kind): (Vec<u8>, Oid)| {
            [&text::utf8(&name), b" ".as_slice(), &type_in_mark(kind)].concat()
        };
        let attributes: Vec<Vec<u8>> = types::attributes(kind).into_iter().map(attribute).collect();
        written.push(b'(');
        written.extend(attributes.join(b", ".as_slice()));
        written.push(b')');
    }
    written
}

fn unfit(why: &str) -> Error {
    Error::new(Code::Conflict, format!("the ledger does not fit the table: {why}"))
        .hint("After renaming or dropping a column, call keysmith.unledger and keysmith.ledger.")
}
