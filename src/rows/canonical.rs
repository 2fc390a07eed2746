//! A row in the form that its seal covers, which no setting of the session changes.

use keysmith_core::rows::seal::RowImage;
use pg::context::Owned;
use pg::relation::{Description, is_generated, name_bytes};
use pg::settings::set_while;
use pg::text::utf8;
use pg::types::{self, Output};
use pg::value::Value;
use pgrx::pg_sys::{self, FormData_pg_attribute, Oid};
use std::borrow::Cow;
use std::ffi::CStr;
use std::rc::Rc;

/// The columns that a seal covers, in the order of their names.
pub struct CanonicalForm {
    table: Vec<u8>,
    columns: Vec<Column>,
    needs_settings: bool,
    /// The number of columns that the table had, dropped columns included.
    all: usize,
}

struct Column {
    number: i16,
    oid: Oid,
    name: Vec<u8>,
    kind: Vec<u8>,
    how: How,
}

/// The way in which a value is written.
enum How {
    /// Text, in UTF-8.
    Text,
    /// By the binary output function of its type.
    Send(Output),
    /// By the text output function of its type.
    Output(Output),
}

/// OIDs below this are the same in every cluster.
const FIRST_UNPINNED: u32 = 10_000;

/// Types whose binary output is the same under all settings.
const PLAIN: [Oid; 21] = [
    pg_sys::BOOLOID,
    pg_sys::CHAROID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::OIDOID,
    pg_sys::FLOAT4OID,
    pg_sys::FLOAT8OID,
    pg_sys::NUMERICOID,
    pg_sys::UUIDOID,
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMETZOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INTERVALOID,
    pg_sys::BYTEAOID,
    pg_sys::INETOID,
    pg_sys::CIDROID,
    pg_sys::MACADDROID,
    pg_sys::MONEYOID,
];

impl CanonicalForm {
    /// The form of a table's rows. `names` are the columns that it covers; an empty list means
    /// all. The seal itself is never covered, nor are generated columns, which PostgreSQL
    /// computes after the row was sealed.
    pub fn of(description: Description, table: &[u8], seal: i16, names: &[&[u8]]) -> CanonicalForm {
        let memory = Rc::new(Owned::new());
        let mut columns: Vec<Column> = description
            .columns()
            .filter(|column| names.is_empty() || names.contains(&name_bytes(column)))
            .filter(|column| column.attnum != seal && !is_generated(column))
            .map(|column| Column::of(column, &memory))
            .collect();
        columns.sort_by(|left, right| left.name.cmp(&right.name));
        let needs_settings = columns.iter().any(Column::needs_settings);
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
            && self.columns.iter().all(|column| description.has(column.number, column.oid))
    }

    /// Writes a row, given the values of its columns.
    pub fn row<'a>(&self, value: impl Fn(i16) -> Option<Value<'a>>) -> RowImage {
        let write = || {
            let mut written = RowImage::of(&self.table);
            for column in &self.columns {
                if let Some(value) = value(column.number) {
                    written.value(&column.name, &column.kind, &column.how.content(value));
                }
            }
            written
        };
        if self.needs_settings { set_while(&SETTINGS, write) } else { write() }
    }
}

impl Column {
    fn of(attribute: &FormData_pg_attribute, memory: &Rc<Owned>) -> Column {
        let (number, oid) = (attribute.attnum, attribute.atttypid);
        Column {
            number,
            oid,
            name: utf8(name_bytes(attribute)).into_owned(),
            kind: utf8(&types::name(oid, None)).into_owned(),
            how: How::of(oid, memory),
        }
    }

    /// Whether the output of its values depends on settings.
    fn needs_settings(&self) -> bool {
        !matches!(self.how, How::Text) && !PLAIN.contains(&types::base(self.oid))
    }
}

impl How {
    /// Binary output is exact, and that of most types does not depend on settings. But the binary
    /// output of rows and of arrays of user-defined types has the OIDs of these types, which
    /// change with a restore.
    fn of(kind: Oid, memory: &Rc<Owned>) -> How {
        let base = types::base(kind);
        if [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::JSONOID].contains(&base)
        {
            return How::Text;
        }
        let element = types::element(base);
        let has_numbers = types::is_composite(element.unwrap_or(base))
            || element.is_some_and(|element| element.to_u32() >= FIRST_UNPINNED);
        let binary = if has_numbers { None } else { Output::binary(kind, memory) };
        binary.map_or_else(|| How::Output(Output::text(kind, memory)), How::Send)
    }

    fn content<'a>(&self, value: Value<'a>) -> Cow<'a, [u8]> {
        match self {
            How::Text => utf8(value.bytes()),
            How::Send(output) => Cow::Owned(output.written(value)),
            How::Output(output) => Cow::Owned(utf8(&output.written(value)).into_owned()),
        }
    }
}

/// The settings on which the output of values depends, as every seal has them.
const SETTINGS: [(&CStr, &CStr); 8] = [
    (c"client_encoding", c"UTF8"),
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"search_path", c"pg_catalog"),
];
