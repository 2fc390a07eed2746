//! A row in the form that its seal covers, which no setting of the session changes.

use keysmith_core::rows::seal::RowImage;
use pg::context::Owned;
use pg::relation::{Description, is_generated, name_bytes};
use pg::settings::set_while;
use pg::text::utf8;
use pg::types::{self, Fixed, Output};
use pg::value::Value;
use pgrx::pg_sys::{self, FormData_pg_attribute, Oid};
use std::ffi::CStr;
use std::rc::Rc;

/// The columns that a seal covers, in the order of their names.
pub struct CanonicalForm {
    table: Vec<u8>,
    columns: Vec<CanonicalColumn>,
    needs_settings: bool,
    /// The number of columns that the table had, dropped columns included.
    all: usize,
}

/// A column whose values are written in a form that no setting changes.
pub struct CanonicalColumn {
    pub number: i16,
    oid: Oid,
    /// Its name, and that of its type, in UTF-8.
    pub name: Vec<u8>,
    pub kind: Vec<u8>,
    how: How,
}

/// The way in which a value is written.
enum How {
    /// Text, in UTF-8.
    Text,
    Bytes,
    Fixed(Fixed),
    /// By the binary output function of its type.
    Send(Output),
    /// By the text output function of its type.
    Output(Output),
}

/// OIDs below this are the same in every cluster.
const FIRST_UNPINNED: u32 = 10_000;

/// Other types whose binary output is the same under all settings.
const PLAIN: [Oid; 6] = [
    pg_sys::NUMERICOID,
    pg_sys::TIMETZOID,
    pg_sys::INTERVALOID,
    pg_sys::INETOID,
    pg_sys::CIDROID,
    pg_sys::MACADDROID,
];

/// Types whose values are OIDs of objects, and are written as names.
const NAMES: [Oid; 11] = [
    pg_sys::REGCLASSOID,
    pg_sys::REGCOLLATIONOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGROLEOID,
    pg_sys::REGTYPEOID,
];

impl CanonicalForm {
    /// The form of a table's rows. `names` are the columns that it covers; an empty list means
    /// all. The seal itself is never covered, nor are generated columns, which PostgreSQL
    /// computes after the row was sealed.
    pub fn of(description: Description, table: &[u8], seal: i16, names: &[&[u8]]) -> CanonicalForm {
        let memory = Rc::new(Owned::new());
        let mut columns: Vec<CanonicalColumn> = description
            .columns()
            .filter(|column| names.is_empty() || names.contains(&name_bytes(column)))
            .filter(|column| column.attnum != seal && !is_generated(column))
            .map(|column| CanonicalColumn::of(column, &memory))
            .collect();
        columns.sort_by(|left, right| left.name.cmp(&right.name));
        let needs_settings = columns.iter().any(CanonicalColumn::needs_settings);
        let all = description.attributes().len();
        CanonicalForm { table: utf8(table).into_owned(), columns, needs_settings, all }
    }

    /// The number of columns of the form.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Whether the form is for a table of this description.
    pub fn fits(&self, description: Description) -> bool {
        description.attributes().len() == self.all
            && self.columns.iter().all(|column| column.is(description))
    }

    /// Writes a row, given the values of its columns.
    pub fn row<'a>(&self, value: impl Fn(i16) -> Option<Value<'a>>) -> RowImage {
        let write = || {
            let mut written = RowImage::of(&self.table);
            for column in &self.columns {
                if let Some(value) = value(column.number) {
                    column
                        .write(value, |content| written.value(&column.name, &column.kind, content));
                }
            }
            written
        };
        with_settings(self.needs_settings, write)
    }
}

/// Runs `body` with the settings that values are written with, if it needs them.
pub fn with_settings<T>(needs_settings: bool, body: impl FnOnce() -> T) -> T {
    if needs_settings { set_while(&SETTINGS, body) } else { body() }
}

impl CanonicalColumn {
    pub fn of(attribute: &FormData_pg_attribute, memory: &Rc<Owned>) -> CanonicalColumn {
        let (number, oid) = (attribute.attnum, attribute.atttypid);
        CanonicalColumn {
            number,
            oid,
            name: utf8(name_bytes(attribute)).into_owned(),
            kind: utf8(&types::name(oid, None)).into_owned(),
            how: How::of(oid, memory),
        }
    }

    /// Its type.
    pub fn oid(&self) -> Oid {
        self.oid
    }

    /// Whether the output of its values depends on settings.
    pub fn needs_settings(&self) -> bool {
        match self.how {
            How::Text | How::Bytes | How::Fixed(_) => false,
            How::Send(_) | How::Output(_) => !PLAIN.contains(&types::base(self.oid)),
        }
    }

    /// Whether a column of a description is this one.
    pub fn is(&self, description: Description) -> bool {
        description.has(self.number, self.oid)
    }

    /// Passes on a value as it is written.
    #[inline]
    pub fn write<T>(&self, value: Value, to: impl FnOnce(&[u8]) -> T) -> T {
        match &self.how {
            How::Text => to(&utf8(value.bytes())),
            How::Bytes => to(value.bytes()),
            How::Fixed(fixed) => fixed.with(value, to),
            How::Send(output) => to(&output.written(value)),
            How::Output(output) => to(&utf8(&output.written(value))),
        }
    }
}

impl How {
    /// Binary output is exact, and that of most types does not depend on settings. But the binary
    /// output of rows and of arrays of user-defined types has the OIDs of these types, and that of
    /// regclass and the like has the OIDs of objects. These change with a restore.
    fn of(kind: Oid, memory: &Rc<Owned>) -> How {
        let base = types::base(kind);
        if [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::JSONOID].contains(&base)
        {
            return How::Text;
        }
        if base == pg_sys::BYTEAOID {
            return How::Bytes;
        }
        if let Some(fixed) = Fixed::of(kind) {
            return How::Fixed(fixed);
        }
        let is_text = has_numbers(base);
        let binary = if is_text { None } else { Output::binary(kind, memory) };
        binary.map_or_else(|| How::Output(Output::text(kind, memory)), How::Send)
    }
}

/// Whether the binary output of a type has OIDs, or can't be had. That of arrays, ranges and the like
/// has that of what they are made of, and arrays have the OID of their elements' type.
fn has_numbers(kind: Oid) -> bool {
    let base = types::base(kind);
    let is_foreign = |element: Oid| element.to_u32() >= FIRST_UNPINNED;
    types::is_composite(base)
        || NAMES.contains(&base)
        || !types::has_binary_output(base)
        || types::element(base).is_some_and(is_foreign)
        || types::inner(base).is_some_and(has_numbers)
}

/// The settings on which the output of values depends, as every seal has them.
const SETTINGS: [(&CStr, &CStr); 9] = [
    (c"quote_all_identifiers", c"off"),
    (c"client_encoding", c"UTF8"),
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"search_path", c"pg_catalog"),
];
