//! Writes a row of a composite type directly into memory.
//!
//! A row has the same form in memory as on disk, so the form stays as it is. Writing it here takes
//! a fifth of the time of `heap_form_tuple`, which needs a separately allocated datum for each
//! value.

use crate::cell::Cell;
use crate::column::Definition;
use crate::jsonb::StoredJsonb;
use crate::lookup;
use crate::major;
use crate::record::RecordWriter;
use crate::scan::attribute_name;
use crate::scratch::Memory;
use pgrx::pg_sys::{self, Datum, HeapTupleHeaderData, Oid};
use std::marker::PhantomData;

/// The header fields that all rows of a composite type share. PostgreSQL chooses them, and they
/// differ between its releases.
#[derive(Clone, Copy)]
pub struct RowType {
    head: pg_sys::DatumTupleFields,
    place: pg_sys::ItemPointerData,
    marks: u16,
    columns: usize,
    forms: Forms,
}

/// The forms of all columns, four bits for each.
type Forms = u128;

/// How a value is stored in a row.
#[derive(Clone, Copy)]
enum Form {
    Boolean = 1,
    Integer,
    /// Also for timestamps.
    Bigint,
    Uuid,
    Interval,
    Text,
    Texts,
    Jsonb,
    /// Any other type, which is not written here.
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
    /// The composite type with this OID, if it has exactly these columns.
    pub fn find(kind: Oid, expected: &[Definition]) -> Option<RowType> {
        let mut values = [Datum::null(); MOST_COLUMNS];
        let mut nulls = [true; MOST_COLUMNS];
        let expected = expected.iter().map(|(name, kind)| (name.as_bytes(), kind.value(), false));
        lookup::with_row_type(kind, |description| {
            // SAFETY: the row description is complete, and pinned until this closure returns.
            let columns = unsafe { major::attributes(description) };
            let is_expected = columns
                .iter()
                .map(|column| (attribute_name(column), column.atttypid, column.attisdropped))
                .eq(expected);
            if !is_expected || columns.len() > MOST_COLUMNS {
                return None;
            }
            let forms = columns.iter().fold(0, |forms, c| Form::of(c.atttypid).after(forms));
            // SAFETY: the arrays are at least as long as the row description. A row of nulls has
            // the same header fields as any other row.
            let header = unsafe {
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                &*(*pg_sys::heap_form_tuple(description, values, nulls)).t_data
            };
            Some(RowType {
                // SAFETY: heap_form_tuple fills in the header of a composite datum.
                head: unsafe { header.t_choice.t_datum },
                place: header.t_ctid,
                marks: header.t_infomask,
                columns: columns.len(),
                forms,
            })
        })
    }

    /// Begins a row. `variable` is the total length of its values of variable length, plus
    /// `ROOM_OF_ELEMENT` for each element of an array.
    // Inlined, as is all of the writer, so that the compiler knows at each column how many came
    // before it.
    #[inline(always)]
    pub fn row<'m>(&self, memory: Memory<'m>, variable: usize) -> RowWriter<'m> {
        let begin = (std::mem::offset_of!(HeapTupleHeaderData, t_bits) + self.columns.div_ceil(8))
            .next_multiple_of(8);
        let room = begin + self.columns * ROOM_OF_COLUMN + variable;
        // SAFETY: the memory was just allocated: it is zeroed, aligned for the header and the
        // values, `room` bytes long, and lives for `'m`.
        unsafe {
            let start = memory.allocated(room);
            let header = &mut *start.cast::<HeapTupleHeaderData>();
            header.t_choice.t_datum = self.head;
            header.t_ctid = self.place;
            header.t_infomask2 = self.columns as u16;
            header.t_infomask =
                self.marks | (pg_sys::HEAP_HASNULL | pg_sys::HEAP_HASVARWIDTH) as u16;
            header.t_hoff = begin as u8;
            let bytes = std::slice::from_raw_parts_mut(start, room);
            let buffer = Buffer { bytes, used: begin };
            RowWriter { buffer, column: 0, present: 0, forms: 0, expected: self.forms }
        }
    }
}

/// The number of columns that fit in `Forms`.
const MOST_COLUMNS: usize = Forms::BITS as usize / 4;

/// The most bytes that a column takes besides its content of variable length: padding and a varlena
/// header, or a value of fixed length.
const ROOM_OF_COLUMN: usize = 32;

/// The most bytes that an element of an array takes besides its content.
pub const ROOM_OF_ELEMENT: usize = 8;

/// The greatest length of a value with a header of one byte, including that header.
const MOST_SHORT: usize = 127;

/// The length of the other varlena header.
const HEADER: usize = 4;

/// A row that is being written. The columns must be written in the order of the type.
pub struct RowWriter<'m> {
    buffer: Buffer<'m>,
    column: usize,
    /// A bit for each column that is not null.
    present: u32,
    /// The forms of the columns written so far, and those of all columns.
    forms: Forms,
    expected: Forms,
}

/// The memory of a row, apart from its counters: the compiler computes these where all columns
/// are written in one place.
struct Buffer<'m> {
    bytes: &'m mut [u8],
    used: usize,
}

impl RowWriter<'_> {
    #[inline(always)]
    fn optional<T>(&mut self, form: Form, value: Option<T>, put: impl FnOnce(&mut Buffer, T)) {
        self.forms = form.after(self.forms);
        if let Some(value) = value {
            put(&mut self.buffer, value);
            self.present |= 1u32.wrapping_shl(self.column as u32);
        }
        self.column += 1;
    }
}

impl<'m> RecordWriter for RowWriter<'m> {
    type Record = Composite<'m>;

    #[inline(always)]
    fn boolean(&mut self, value: bool) {
        self.optional(Form::Boolean, Some(value), |buffer, value| {
            buffer.fixed(&[u8::from(value)], 1)
        });
    }

    #[inline(always)]
    fn integer(&mut self, value: Option<i32>) {
        self.optional(Form::Integer, value, |buffer, value| buffer.fixed(&value.to_ne_bytes(), 4));
    }

    #[inline(always)]
    fn bigint(&mut self, value: Option<i64>) {
        self.optional(Form::Bigint, value, |buffer, value| buffer.fixed(&value.to_ne_bytes(), 8));
    }

    #[inline(always)]
    fn timestamp(&mut self, value: Option<i64>) {
        self.bigint(value);
    }

    #[inline(always)]
    fn uuid(&mut self, value: Option<&[u8; 16]>) {
        self.optional(Form::Uuid, value, |buffer, value| buffer.fixed(value, 1));
    }

    #[inline(always)]
    fn interval(&mut self, value: Option<i64>) {
        self.optional(Form::Interval, value, |buffer, time| {
            let mut value = [0; size_of::<pg_sys::Interval>()];
            let at = std::mem::offset_of!(pg_sys::Interval, time);
            value[at..at + 8].copy_from_slice(&time.to_ne_bytes());
            buffer.fixed(&value, 8);
        });
    }

    #[inline(always)]
    fn text(&mut self, value: Option<&[u8]>) {
        self.optional(Form::Text, value, |buffer, value| {
            if value.len() < MOST_SHORT {
                buffer.short(value);
            } else {
                buffer.align(4);
                buffer.write(&varlena_header(value.len()));
                buffer.write(value);
            }
        });
    }

    #[inline(always)]
    fn texts(&mut self, values: Option<&[&[u8]]>) {
        self.optional(Form::Texts, values, |buffer, values| {
            // A reference to the buffer would keep the compiler from taking the writer apart.
            buffer.used = array(buffer.bytes, buffer.used, values);
        });
    }

    #[inline(always)]
    fn jsonb(&mut self, value: Option<StoredJsonb>) {
        self.optional(Form::Jsonb, value, |buffer, value| {
            if !value.is_short() {
                buffer.align(4);
            }
            buffer.write(value.image());
        });
    }

    /// It is an error if the columns are not those of the type, or did not fit.
    #[inline(always)]
    fn finish(self) -> Composite<'m> {
        let RowWriter { buffer, column, present, forms, expected } = self;
        let Buffer { bytes, used } = buffer;
        assert!(used <= bytes.len(), "a row has more than there was room for");
        assert!(forms == expected, "a row has other columns than its type");
        let marks = bytes.iter_mut().skip(std::mem::offset_of!(HeapTupleHeaderData, t_bits));
        for (place, mark) in marks.take(column.div_ceil(8)).zip(present.to_le_bytes()) {
            *place = mark;
        }
        // SAFETY: the memory begins with the header, and lives as long as the result.
        unsafe {
            let header = bytes.as_mut_ptr().cast::<HeapTupleHeaderData>();
            (*header).t_choice.t_datum.datum_len_ = (used as i32) << 2;
            Composite { header, length: used as u32, _memory: PhantomData }
        }
    }
}

impl Buffer<'_> {
    #[inline]
    fn fixed(&mut self, bytes: &[u8], alignment: usize) {
        self.align(alignment);
        self.write(bytes);
    }

    /// Skips the padding, which is zero already.
    #[inline]
    fn align(&mut self, alignment: usize) {
        self.used = self.used.next_multiple_of(alignment);
    }

    /// Writes a value with a header of one byte.
    #[inline]
    fn short(&mut self, value: &[u8]) {
        let end = self.used + 1 + value.len();
        if let Some([header, content @ ..]) = self.bytes.get_mut(self.used..end) {
            *header = ((value.len() as u8 + 1) << 1) | 1;
            content.copy_from_slice(value);
        }
        self.used = end;
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
}

/// Writes an array of texts behind the bytes that are used, and returns how many are used then.
fn array(bytes: &mut [u8], used: usize, values: &[&[u8]]) -> usize {
    let mut buffer = Buffer { bytes, used };
    buffer.align(4);
    let begin = buffer.used;
    // ArrayType: header, number of dimensions, no bitmap of nulls, element type; then the
    // length and the lower bound of the dimension. An empty array has no dimensions.
    let dimensions = u32::from(!values.is_empty());
    let fixed = [0, dimensions, 0, pg_sys::TEXTOID.to_u32(), values.len() as u32, 1];
    let words = if values.is_empty() { 4 } else { fixed.len() };
    fixed.iter().take(words).for_each(|word| buffer.write(&word.to_ne_bytes()));
    for value in values {
        buffer.write(&varlena_header(value.len()));
        buffer.write(value);
        buffer.align(4);
    }
    let length = varlena_header(buffer.used - begin - HEADER);
    buffer.overwrite(begin, &length);
    buffer.used
}

#[inline]
fn varlena_header(content: usize) -> [u8; HEADER] {
    (((content + HEADER) as u32) << 2).to_le_bytes()
}

/// A finished row of a composite type.
pub struct Composite<'m> {
    header: *mut HeapTupleHeaderData,
    length: u32,
    _memory: PhantomData<&'m ()>,
}

impl Composite<'_> {
    pub fn into_datum(self) -> Datum {
        Datum::from(self.header)
    }

    /// The OID of its type.
    pub fn kind(&self) -> Oid {
        // SAFETY: the row lives as long as `self`, and begins with the header of a composite datum.
        unsafe { (*self.header).t_choice.t_datum.datum_typeid }
    }

    pub(crate) fn tuple(&self) -> pg_sys::HeapTupleData {
        pg_sys::HeapTupleData { t_len: self.length, t_data: self.header, ..Default::default() }
    }
}

/// A composite value, copied into Rust's memory.
pub struct Copied(Vec<u64>);

impl Copied {
    /// # Safety
    /// The datum must be a composite value.
    pub(crate) unsafe fn new(datum: Datum) -> Copied {
        // SAFETY: as the caller promises, the datum is a varlena. Once it is detoasted, its header
        // has its length.
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
        // SAFETY: a composite value begins with this header.
        let head = unsafe { (*header).t_choice.t_datum };
        let tuple = pg_sys::HeapTupleData {
            t_len: (head.datum_len_ as u32) >> 2,
            t_data: header,
            ..Default::default()
        };
        (head.datum_typeid, tuple)
    }

    /// The value as a datum in the current memory context.
    pub fn datum(&self) -> Datum {
        let (_, mut tuple) = self.tuple();
        // SAFETY: the tuple points to the copy in `self`, and PostgreSQL copies it again.
        unsafe { pg_sys::HeapTupleHeaderGetDatum((*pg_sys::heap_copytuple(&mut tuple)).t_data) }
    }

    /// The value with one column replaced, as a datum. Columns are counted from 1.
    pub fn with(&self, column: usize, cell: Cell) -> Datum {
        let (kind, mut tuple) = self.tuple();
        lookup::with_row_type(kind, |description| {
            // SAFETY: the row description is complete, and pinned until this closure returns.
            let columns = unsafe { major::attributes(description) };
            let mut values = vec![Datum::null(); columns.len()];
            let mut nulls = vec![true; columns.len()];
            let (data, marks) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            // SAFETY: the tuple has this row description, and the arrays are as long as it.
            unsafe { pg_sys::heap_deform_tuple(&mut tuple, description, data, marks) };
            let index = column.wrapping_sub(1);
            if columns.get(index).is_none_or(|column| column.atttypid != cell.kind()) {
                pgrx::error!("a row has another column {column} than the library expects");
            }
            let datum = cell.datum();
            values[index] = datum.unwrap_or(Datum::null());
            nulls[index] = datum.is_none();
            // SAFETY: as above, and the new value has its column's type.
            unsafe {
                let row = pg_sys::heap_form_tuple(description, data, marks);
                pg_sys::HeapTupleHeaderGetDatum((*row).t_data)
            }
        })
    }
}
