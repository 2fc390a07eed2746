//! A row of a composite type, written in one go.
//!
//! The form of a row is the same on disk and in memory, and so will stay. Writing it
//! here takes a fifth of what `heap_form_tuple` takes, which wants each value made
//! first, in memory of its own.

use crate::cell::Cell;
use crate::column::Definition;
use crate::lookup;
use crate::major;
use crate::scan::attribute_name;
use crate::scratch::Memory;
use crate::varlena::StoredValue;
use pgrx::pg_sys::{self, Datum, HeapTupleHeaderData, Oid};
use std::marker::PhantomData;

/// What the header of each row of a type says of the type. It is PostgreSQL's own to
/// choose, and not the same in all of its releases.
#[derive(Clone, Copy)]
pub struct RowType {
    head: pg_sys::DatumTupleFields,
    place: pg_sys::ItemPointerData,
    marks: u16,
    columns: usize,
    forms: Forms,
}

/// The forms of columns, one after the other, each in its own four bits.
type Forms = u128;

/// How a value lies in a row.
#[derive(Clone, Copy)]
enum Form {
    Boolean = 1,
    Integer,
    /// Or a timestamp.
    Bigint,
    Uuid,
    Interval,
    Text,
    Texts,
    Jsonb,
    /// Of a type that is not written here.
    Other,
}

impl Form {
    fn of(kind: Oid) -> Form {
        match kind {
            pg_sys::BOOLOID => Form::Boolean,
            pg_sys::INT4OID => Form::Integer,
            pg_sys::INT8OID | pg_sys::TIMESTAMPTZOID => Form::Bigint,
            pg_sys::UUIDOID => Form::Uuid,
            pg_sys::INTERVALOID => Form::Interval,
            pg_sys::TEXTOID => Form::Text,
            pg_sys::TEXTARRAYOID => Form::Texts,
            pg_sys::JSONBOID => Form::Jsonb,
            _ => Form::Other,
        }
    }

    #[inline]
    fn after(self, before: Forms) -> Forms {
        before << 4 | self as Forms
    }
}

impl RowType {
    /// Of a type that there is, if it has these columns.
    pub fn find(kind: Oid, expected: &[Definition]) -> Option<RowType> {
        let mut values = [Datum::null(); MOST_COLUMNS];
        let mut nulls = [true; MOST_COLUMNS];
        let expected = expected.iter().map(|(name, kind)| (name.as_bytes(), kind.value(), false));
        lookup::with_row_type(kind, |description| {
            // SAFETY: the description is complete, and there until this is over.
            let columns = unsafe { major::attributes(description) };
            let is_expected = columns
                .iter()
                .map(|column| (attribute_name(column), column.atttypid, column.attisdropped))
                .eq(expected);
            if !is_expected || columns.len() > MOST_COLUMNS {
                return None;
            }
            let forms = columns.iter().fold(0, |forms, c| Form::of(c.atttypid).after(forms));
            // SAFETY: there are as many values as columns. A row of nulls has the header of any
            // other.
            let header = unsafe {
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                &*(*pg_sys::heap_form_tuple(description, values, nulls)).t_data
            };
            Some(RowType {
                // SAFETY: a row that was made has this form of the header.
                head: unsafe { header.t_choice.t_datum },
                place: header.t_ctid,
                marks: header.t_infomask,
                columns: columns.len(),
                forms,
            })
        })
    }

    /// Begins a row in which values of variable length have so many bytes together,
    /// `ROOM_OF_ELEMENT` for each element of arrays included.
    #[inline]
    pub fn row<'m>(&self, memory: Memory<'m>, variable: usize) -> RowWriter<'m> {
        let begin = (std::mem::offset_of!(HeapTupleHeaderData, t_bits) + self.columns.div_ceil(8))
            .next_multiple_of(8);
        let room = begin + self.columns * ROOM_OF_COLUMN + variable;
        // SAFETY: the memory is fresh, zeroed, aligned for all that is put there, as long
        // as the slice, and there as long as the row.
        unsafe {
            let start = pg_sys::MemoryContextAllocZero(memory.get(), room).cast::<u8>();
            let header = &mut *start.cast::<HeapTupleHeaderData>();
            header.t_choice.t_datum = self.head;
            header.t_ctid = self.place;
            header.t_infomask2 = self.columns as u16;
            header.t_infomask =
                self.marks | (pg_sys::HEAP_HASNULL | pg_sys::HEAP_HASVARWIDTH) as u16;
            header.t_hoff = begin as u8;
            let bytes = std::slice::from_raw_parts_mut(start, room);
            RowWriter { bytes, used: begin, column: 0, forms: 0, expected: self.forms }
        }
    }
}

/// As many as `Forms` can tell of.
const MOST_COLUMNS: usize = Forms::BITS as usize / 4;

/// Room that a column takes at most, beside what is variable about it: padding and the
/// header of a varlena, or a value of fixed length.
const ROOM_OF_COLUMN: usize = 32;

/// The same for an element of an array.
pub const ROOM_OF_ELEMENT: usize = 8;

/// The longest a value with a header of one byte can be, the header included.
const MOST_SHORT: usize = 127;

/// Length of the other kind of header.
const HEADER: usize = 4;

/// A row under way. Columns are put in the order of the type.
pub struct RowWriter<'m> {
    bytes: &'m mut [u8],
    used: usize,
    column: usize,
    /// Of the columns that were put, and of all.
    forms: Forms,
    expected: Forms,
}

impl<'m> RowWriter<'m> {
    #[inline]
    pub fn boolean(&mut self, value: bool) {
        self.optional(Form::Boolean, Some(value), |row, value| row.fixed(&[u8::from(value)], 1));
    }

    #[inline]
    pub fn integer(&mut self, value: Option<i32>) {
        self.optional(Form::Integer, value, |row, value| row.fixed(&value.to_ne_bytes(), 4));
    }

    /// Also a timestamp.
    #[inline]
    pub fn bigint(&mut self, value: Option<i64>) {
        self.optional(Form::Bigint, value, |row, value| row.fixed(&value.to_ne_bytes(), 8));
    }

    #[inline]
    pub fn uuid(&mut self, value: Option<&[u8; 16]>) {
        self.optional(Form::Uuid, value, |row, value| row.fixed(value, 1));
    }

    /// An interval of so many microseconds.
    #[inline]
    pub fn interval(&mut self, value: Option<i64>) {
        self.optional(Form::Interval, value, |row, time| {
            let mut value = [0; size_of::<pg_sys::Interval>()];
            let at = std::mem::offset_of!(pg_sys::Interval, time);
            value[at..at + 8].copy_from_slice(&time.to_ne_bytes());
            row.fixed(&value, 8);
        });
    }

    #[inline]
    pub fn text(&mut self, value: Option<&[u8]>) {
        self.optional(Form::Text, value, |row, value| {
            if value.len() < MOST_SHORT {
                row.fixed(&[((value.len() as u8 + 1) << 1) | 1], 1);
            } else {
                row.align(4);
                row.write(&varlena_header(value.len()));
                row.column();
            }
            row.write(value);
        });
    }

    /// An array of texts.
    pub fn texts(&mut self, values: Option<&[&[u8]]>) {
        self.optional(Form::Texts, values, Self::array);
    }

    fn array(&mut self, values: &[&[u8]]) {
        self.align(4);
        let begin = self.used;
        // ArrayType: header, dimensions, no bitmap of nulls, type; then length and lower
        // bound of the dimension. An array of nothing has none.
        let dimensions = u32::from(!values.is_empty());
        let fixed = [0, dimensions, 0, pg_sys::TEXTOID.to_u32(), values.len() as u32, 1];
        let words = if values.is_empty() { 4 } else { fixed.len() };
        fixed.iter().take(words).for_each(|word| self.write(&word.to_ne_bytes()));
        for value in values {
            self.write(&varlena_header(value.len()));
            self.write(value);
            self.align(4);
        }
        let length = varlena_header(self.used - begin - HEADER);
        self.overwrite(begin, &length);
        self.column();
    }

    /// A jsonb as it lies in another row, header and all.
    #[inline]
    pub fn jsonb(&mut self, value: Option<StoredValue>) {
        self.optional(Form::Jsonb, value, |row, value| {
            if !value.is_short() {
                row.align(4);
            }
            row.write(value.image());
            row.column();
        });
    }

    #[inline]
    fn optional<T>(&mut self, form: Form, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.forms = form.after(self.forms);
        match value {
            Some(value) => put(self, value),
            None => self.column += 1,
        }
    }

    #[inline]
    fn fixed(&mut self, bytes: &[u8], alignment: usize) {
        self.align(alignment);
        self.write(bytes);
        self.column();
    }

    /// Notes that the column is not null, and goes on to the next.
    #[inline]
    fn column(&mut self) {
        let place = std::mem::offset_of!(HeapTupleHeaderData, t_bits) + self.column / 8;
        if let Some(byte) = self.bytes.get_mut(place) {
            *byte |= 1 << (self.column % 8);
        }
        self.column += 1;
    }

    /// The memory between values is zero.
    #[inline]
    fn align(&mut self, alignment: usize) {
        self.used = self.used.next_multiple_of(alignment);
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.overwrite(self.used, bytes);
        self.used += bytes.len();
    }

    #[inline]
    fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// The row, which is a value of its type. Nothing that was put was left out.
    #[inline]
    pub fn finish(self) -> Composite<'m> {
        assert!(self.used <= self.bytes.len(), "a row has more than there was room for");
        assert!(self.forms == self.expected, "a row has other columns than its type");
        // SAFETY: the header is there; the memory is there as long as the result.
        unsafe {
            let header = self.bytes.as_mut_ptr().cast::<HeapTupleHeaderData>();
            (*header).t_choice.t_datum.datum_len_ = (self.used as i32) << 2;
            Composite { header, length: self.used as u32, _memory: PhantomData }
        }
    }
}

#[inline]
fn varlena_header(content: usize) -> [u8; HEADER] {
    (((content + HEADER) as u32) << 2).to_le_bytes()
}

/// A row of a type.
pub struct Composite<'m> {
    header: *mut HeapTupleHeaderData,
    length: u32,
    _memory: PhantomData<&'m ()>,
}

impl Composite<'_> {
    pub fn into_datum(self) -> Datum {
        Datum::from(self.header)
    }

    /// Its type.
    pub fn kind(&self) -> Oid {
        // SAFETY: the row is there, and a row of a type has this form of the header.
        unsafe { (*self.header).t_choice.t_datum.datum_typeid }
    }

    pub(crate) fn tuple(&self) -> pg_sys::HeapTupleData {
        pg_sys::HeapTupleData { t_len: self.length, t_data: self.header, ..Default::default() }
    }
}

/// A row of a named type, copied to memory of Rust's own.
pub struct Copied(Vec<u64>);

impl Copied {
    /// # Safety
    /// The datum must be a row of a type.
    pub(crate) unsafe fn new(datum: Datum) -> Copied {
        // SAFETY: as the caller promises: a varlena, which tells its length once it is plain.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let length = pgrx::varsize_any(plain);
            let mut words = vec![0; length.div_ceil(size_of::<u64>())];
            std::ptr::copy_nonoverlapping(plain.cast::<u8>(), words.as_mut_ptr().cast(), length);
            Copied(words)
        }
    }

    fn tuple(&self) -> (Oid, pg_sys::HeapTupleData) {
        let header = self.0.as_ptr().cast::<HeapTupleHeaderData>().cast_mut();
        // SAFETY: a row of a type has this form of the header.
        let head = unsafe { (*header).t_choice.t_datum };
        let tuple = pg_sys::HeapTupleData {
            t_len: (head.datum_len_ as u32) >> 2,
            t_data: header,
            ..Default::default()
        };
        (head.datum_typeid, tuple)
    }

    /// The row for PostgreSQL, in the current memory context.
    pub fn datum(&self) -> Datum {
        let (_, mut tuple) = self.tuple();
        // SAFETY: the tuple is there; it is copied.
        unsafe { pg_sys::HeapTupleHeaderGetDatum((*pg_sys::heap_copytuple(&mut tuple)).t_data) }
    }

    /// The same with another value in a column, counted from 1.
    pub fn with(&self, column: usize, cell: Cell) -> Datum {
        let (kind, mut tuple) = self.tuple();
        lookup::with_row_type(kind, |description| {
            // SAFETY: the description is complete, and there until this is over.
            let columns = unsafe { major::attributes(description) };
            let mut values = vec![Datum::null(); columns.len()];
            let mut nulls = vec![true; columns.len()];
            let (data, marks) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            // SAFETY: the tuple is of the type; the arrays are as long as its description.
            unsafe { pg_sys::heap_deform_tuple(&mut tuple, description, data, marks) };
            let index = column.wrapping_sub(1);
            if columns.get(index).is_none_or(|column| column.atttypid != cell.kind()) {
                pgrx::error!("a row has another column {column} than the library expects");
            }
            let datum = cell.datum();
            values[index] = datum.unwrap_or(Datum::null());
            nulls[index] = datum.is_none();
            // SAFETY: as above, and the new value is of its column's type.
            unsafe {
                let row = pg_sys::heap_form_tuple(description, data, marks);
                pg_sys::HeapTupleHeaderGetDatum((*row).t_data)
            }
        })
    }
}
