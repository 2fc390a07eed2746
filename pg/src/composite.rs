//! A row of a composite type, written in one go.
//!
//! The form of a row is the same on disk and in memory, and so will stay. Writing it
//! here takes a fifth of what `heap_form_tuple` takes, which wants each value made
//! first, in memory of its own.

use crate::result_set::ResultSet;
use pgrx::pg_sys::{self, Datum, HeapTupleHeaderData};

/// What the header of each row of a type says of the type. It is PostgreSQL's own to
/// choose, and not the same in all of its releases.
#[derive(Clone, Copy)]
pub struct RowType {
    kind: pg_sys::DatumTupleFields,
    place: pg_sys::ItemPointerData,
    marks: u16,
}

impl RowType {
    /// Of a type with at most `MOST_COLUMNS` columns.
    ///
    /// # Safety
    /// The description must be that of a composite type. This may raise an error.
    pub unsafe fn new(description: pg_sys::TupleDesc) -> RowType {
        let mut values = [Datum::null(); MOST_COLUMNS];
        let mut nulls = [true; MOST_COLUMNS];
        // SAFETY: as the caller promises. A row of nulls has the header of any other.
        unsafe {
            assert!((*description).natts as usize <= MOST_COLUMNS, "a type of ours is too wide");
            let row = pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr());
            let header = &*(*row).t_data;
            RowType {
                kind: header.t_choice.t_datum,
                place: header.t_ctid,
                marks: header.t_infomask,
            }
        }
    }
}

/// Enough for any type of ours.
const MOST_COLUMNS: usize = 64;

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
pub struct Row<'a> {
    bytes: &'a mut [u8],
    used: usize,
    columns: usize,
    column: usize,
}

/// Begins a row of so many columns, of which those of variable length have so many bytes
/// together, `ROOM_OF_ELEMENT` for each element of arrays included.
///
/// # Safety
/// The type must be a composite type with these columns.
pub unsafe fn row<'a>(row_type: RowType, columns: usize, variable: usize) -> Row<'a> {
    let columns = columns.min(MOST_COLUMNS);
    let begin = (std::mem::offset_of!(HeapTupleHeaderData, t_bits) + columns.div_ceil(8))
        .next_multiple_of(8);
    let room = begin + columns * ROOM_OF_COLUMN + variable;
    // SAFETY: the memory is fresh, zeroed, aligned for all that is put there, and as long
    // as the slice.
    unsafe {
        let start = pg_sys::palloc0(room).cast::<u8>();
        let header = &mut *start.cast::<HeapTupleHeaderData>();
        header.t_choice.t_datum = row_type.kind;
        header.t_ctid = row_type.place;
        header.t_infomask2 = columns as u16;
        header.t_infomask =
            row_type.marks | (pg_sys::HEAP_HASNULL | pg_sys::HEAP_HASVARWIDTH) as u16;
        header.t_hoff = begin as u8;
        let bytes = std::slice::from_raw_parts_mut(start, room);
        Row { bytes, used: begin, columns, column: 0 }
    }
}

impl Row<'_> {
    pub fn boolean(&mut self, value: bool) {
        self.fixed(&[u8::from(value)], 1);
    }

    pub fn integer(&mut self, value: Option<i32>) {
        self.optional(value, |row, value| row.fixed(&value.to_ne_bytes(), 4));
    }

    pub fn bigint(&mut self, value: Option<i64>) {
        self.optional(value, |row, value| row.fixed(&value.to_ne_bytes(), 8));
    }

    pub fn uuid(&mut self, value: Option<&[u8; 16]>) {
        self.optional(value, |row, value| row.fixed(value, 1));
    }

    /// An interval of so many microseconds.
    pub fn interval(&mut self, value: Option<i64>) {
        self.optional(value, |row, time| {
            let mut value = [0; size_of::<pg_sys::Interval>()];
            let at = std::mem::offset_of!(pg_sys::Interval, time);
            value[at..at + 8].copy_from_slice(&time.to_ne_bytes());
            row.fixed(&value, 8);
        });
    }

    pub fn text(&mut self, value: Option<&[u8]>) {
        self.optional(value, |row, value| {
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
        self.optional(values, Self::array);
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

    /// A value of variable length as it lies in another row, header and all.
    ///
    /// # Safety
    /// It must be a varlena that is stored in the row itself, aligned as an integer is.
    pub unsafe fn stored(&mut self, value: Option<Datum>) {
        self.optional(value, |row, value| {
            let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
            // SAFETY: as the caller promises; the header tells the length.
            unsafe {
                if !pgrx::varatt_is_1b(pointer) {
                    row.align(4);
                }
                let length = pgrx::varsize_any(pointer);
                row.write(std::slice::from_raw_parts(pointer.cast::<u8>(), length));
            }
            row.column();
        });
    }

    fn optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
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
    pub fn finish(self) -> Composite {
        assert!(self.used <= self.bytes.len(), "a row has more than there was room for");
        assert!(self.column == self.columns, "a row has other columns than its type");
        // SAFETY: the header is there; the memory outlives this, as it is not freed.
        unsafe {
            let header = self.bytes.as_mut_ptr().cast::<HeapTupleHeaderData>();
            (*header).t_choice.t_datum.datum_len_ = (self.used as i32) << 2;
            Composite { header, length: self.used as u32 }
        }
    }
}

#[inline]
fn varlena_header(content: usize) -> [u8; HEADER] {
    (((content + HEADER) as u32) << 2).to_le_bytes()
}

/// A row in the memory context in which it was begun.
pub struct Composite {
    header: *mut HeapTupleHeaderData,
    length: u32,
}

impl Composite {
    pub fn into_datum(self) -> Datum {
        Datum::from(self.header)
    }

    /// Adds the row to a set-returning function's result.
    ///
    /// # Safety
    /// The set must be one of its type, and this before the call returns.
    pub unsafe fn put(self, result: ResultSet) {
        let mut tuple =
            pg_sys::HeapTupleData { t_len: self.length, t_data: self.header, ..Default::default() };
        // SAFETY: as the caller promises; the row is copied.
        unsafe { result.put_row(&mut tuple) };
    }
}
