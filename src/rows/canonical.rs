//! A row in the form that its seal covers, whatever the session's settings.

use super::table;
use super::value::utf8;
use keysmith_core::rows::seal::Row;
use pg::major;
use pg::settings::set_for_now;
use pg::varlena;
use pgrx::pg_sys::{self, Datum, FmgrInfo, FormData_pg_attribute, MemoryContext, Oid, TupleDesc};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int};

/// The columns that a seal covers, in the order of their names.
pub struct Form {
    table: Vec<u8>,
    columns: Vec<Column>,
    needs_settings: bool,
    /// How many columns the table had, dropped ones too.
    all: usize,
}

struct Column {
    number: i16,
    oid: Oid,
    name: Vec<u8>,
    kind: Vec<u8>,
    how: How,
}

/// How a value is written.
enum How {
    /// Text, in UTF-8.
    Text,
    /// By its type's function for binary output.
    Send(UnsafeCell<FmgrInfo>),
    /// By its type's function for output as text.
    Output(UnsafeCell<FmgrInfo>),
}

/// What every cluster numbers alike.
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

impl Form {
    /// The form of a table's rows. `names` are the columns covered, all if there are none;
    /// the seal itself never is, nor is what PostgreSQL computes from other columns after
    /// the row was sealed.
    ///
    /// # Safety
    /// The description must be valid; the context must outlive the form.
    pub unsafe fn of(
        description: TupleDesc,
        table: &[u8],
        seal: i16,
        names: &[&[u8]],
        context: MemoryContext,
    ) -> Form {
        let mut columns: Vec<Column> = Vec::new();
        let mut needs_settings = false;
        // SAFETY: as the caller promises.
        for attribute in unsafe { table::columns(description) } {
            let covered = names.is_empty() || names.contains(&table::name(attribute));
            if !covered || attribute.attnum == seal || table::is_generated(attribute) {
                continue;
            }
            // SAFETY: as above.
            let (column, needs) = unsafe { Column::of(attribute, context) };
            needs_settings |= needs;
            columns.push(column);
        }
        columns.sort_by(|left, right| left.name.cmp(&right.name));
        // SAFETY: as above.
        let all = unsafe { major::attributes(description) }.len();
        Form { table: utf8(table).into_owned(), columns, needs_settings, all }
    }

    /// How many columns the form has.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Whether the form is one of a table of this description.
    ///
    /// # Safety
    /// The description must be valid.
    pub unsafe fn fits(&self, description: TupleDesc) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            major::attributes(description).len() == self.all
                && self
                    .columns
                    .iter()
                    .all(|column| table::has(description, column.number, column.oid))
        }
    }

    /// A row, by the values of its columns.
    ///
    /// # Safety
    /// The values must be of a row of a table that the form fits.
    pub unsafe fn row(&self, value: impl Fn(i16) -> Option<Datum>) -> Row {
        let write = || {
            let mut written = Row::of(&self.table);
            for column in &self.columns {
                if let Some(datum) = value(column.number) {
                    // SAFETY: the value is of the column's type.
                    let content = unsafe { column.how.content(datum) };
                    written.value(&column.name, &column.kind, &content);
                }
            }
            written
        };
        if self.needs_settings { under_fixed_settings(write) } else { write() }
    }
}

impl Column {
    /// The column, and whether settings bear on how its values are written.
    ///
    /// # Safety
    /// The context must outlive the result.
    unsafe fn of(attribute: &FormData_pg_attribute, context: MemoryContext) -> (Column, bool) {
        // SAFETY: the type is there as long as the table is open; the name is a C string
        // in the current memory context.
        let (kind, how) = unsafe {
            let kind = CStr::from_ptr(pg_sys::format_type_extended(
                attribute.atttypid,
                -1,
                pg_sys::FORMAT_TYPE_FORCE_QUALIFY as pg_sys::bits16,
            ));
            (utf8(kind.to_bytes()).into_owned(), How::of(attribute.atttypid, context))
        };
        // SAFETY: as above.
        let base = unsafe { pg_sys::getBaseType(attribute.atttypid) };
        let needs_settings = !matches!(how, How::Text) && !PLAIN.contains(&base);
        let name = utf8(table::name(attribute)).into_owned();
        let (number, oid) = (attribute.attnum, attribute.atttypid);
        (Column { number, oid, name, kind, how }, needs_settings)
    }
}

impl How {
    /// Binary output is exact, and no setting bears on most of it. But rows, and arrays of
    /// types that someone made, write the types' numbers, which a restore changes.
    ///
    /// # Safety
    /// The type must exist, and the context outlive the result.
    unsafe fn of(kind: Oid, context: MemoryContext) -> How {
        // SAFETY: as the caller promises; the functions are of the type.
        unsafe {
            let base = pg_sys::getBaseType(kind);
            if [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::JSONOID]
                .contains(&base)
            {
                return How::Text;
            }
            let element = pg_sys::get_element_type(base);
            let inner = if element == Oid::INVALID { base } else { element };
            let has_numbers = pg_sys::get_typtype(inner) as u8 == pg_sys::TYPTYPE_COMPOSITE
                || element != Oid::INVALID && element.to_u32() >= FIRST_UNPINNED;
            let send = binary_output(base).filter(|_| !has_numbers);
            let mut function = FmgrInfo::default();
            match send {
                Some(send) => {
                    pg_sys::fmgr_info_cxt(send, &mut function, context);
                    How::Send(UnsafeCell::new(function))
                }
                None => {
                    let (mut output, mut is_varlena) = (Oid::INVALID, false);
                    pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena);
                    pg_sys::fmgr_info_cxt(output, &mut function, context);
                    How::Output(UnsafeCell::new(function))
                }
            }
        }
    }

    /// # Safety
    /// The value must be of the type.
    unsafe fn content(&self, datum: Datum) -> Vec<u8> {
        // SAFETY: as the caller promises. Only this one holds the function's record, while
        // it is called.
        unsafe {
            match self {
                How::Text => utf8(varlena::bytes(datum)).into_owned(),
                How::Send(function) => {
                    let sent = pg_sys::SendFunctionCall(function.get(), datum);
                    varlena::bytes(Datum::from(sent)).to_vec()
                }
                How::Output(function) => {
                    let text = pg_sys::OutputFunctionCall(function.get(), datum);
                    utf8(CStr::from_ptr(text).to_bytes()).into_owned()
                }
            }
        }
    }
}

/// A type's function for binary output, which not every type has.
fn binary_output(kind: Oid) -> Option<Oid> {
    // SAFETY: the entry is released after it is read.
    unsafe {
        let entry =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as c_int, kind.into());
        if entry.is_null() {
            return None;
        }
        let send = (*pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_type>()).typsend;
        pg_sys::ReleaseSysCache(entry);
        (send != Oid::INVALID).then_some(send)
    }
}

/// What bears on how values are written, and is the same for every seal.
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

fn under_fixed_settings<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: names and values are C strings. What is set at this level ends with it; an
    // error ends it as well, since the abort does.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in SETTINGS {
            set_for_now(name, value);
        }
        let result = body();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
