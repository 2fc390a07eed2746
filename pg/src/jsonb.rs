//! Reads a jsonb in place: no copy and no allocation. All offsets and lengths are checked.

use crate::scratch::Memory;
use crate::varlena::StoredValue;
use crate::{input, text, varlena};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;
use std::marker::PhantomData;

/// A jsonb as a datum.
#[derive(Clone, Copy)]
pub struct Jsonb<'a>(Datum, PhantomData<&'a ()>);

impl<'a> Jsonb<'a> {
    /// # Safety
    /// The datum must be a jsonb that outlives the result.
    pub unsafe fn new(datum: Datum) -> Jsonb<'a> {
        Jsonb(datum, PhantomData)
    }

    /// Its length in bytes, without detoasting it.
    pub fn length(self) -> usize {
        // SAFETY: a jsonb is a varlena.
        unsafe { varlena::length(self.0) }
    }

    /// As JSON text. `None` if that has no UTF-8 form.
    pub fn text(self) -> Option<String> {
        // SAFETY: the detoasted value is a jsonb. Its text is a C string in the database's
        // encoding.
        unsafe {
            let json = pg_sys::pg_detoast_datum(self.0.cast_mut_ptr());
            let root = &raw mut (*json.cast::<pg_sys::Jsonb>()).root;
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), root, 256);
            text::from_server(CStr::from_ptr(text).to_bytes())
        }
    }

    /// Whether its text is not much longer than it is itself, and no value is nested deeper than so
    /// many levels. PostgreSQL stores `1e100000` in some bytes, and its text has all zeros.
    pub fn is_plain(self, levels: usize) -> bool {
        // SAFETY: a jsonb is a varlena, and this one lives as long as the call.
        Json::new(unsafe { varlena::bytes(self.0) }).is_plain(levels)
    }

    /// The length in bytes of a field of an object, as a separate jsonb.
    pub fn length_of(self, field: &str) -> Option<usize> {
        // SAFETY: jsonb_object_field takes a jsonb and a text, and returns a jsonb or null.
        unsafe {
            let arguments = [Some(self.0), Some(text::datum(field))];
            let field =
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_object_field, &arguments)?;
            Some(varlena::length(field))
        }
    }

    pub(crate) fn datum(self) -> Datum {
        self.0
    }
}

/// A jsonb as a row stores it, or a copy of it.
#[derive(Clone, Copy)]
pub struct StoredJsonb<'a>(StoredValue<'a>);

impl<'a> StoredJsonb<'a> {
    /// # Safety
    /// The value must be a jsonb.
    #[inline]
    pub(crate) unsafe fn new(value: StoredValue<'a>) -> Self {
        StoredJsonb(value)
    }

    /// As `StoredValue::fetched`.
    #[inline]
    pub fn fetched<'m>(self, memory: Memory<'m>) -> StoredJsonb<'m>
    where
        'a: 'm,
    {
        StoredJsonb(self.0.fetched(memory))
    }

    /// As it is stored, including its header.
    #[inline]
    pub fn image(self) -> &'a [u8] {
        self.0.image()
    }

    #[inline]
    pub fn is_short(self) -> bool {
        self.0.is_short()
    }

    /// Passes its JSON text to `body`, in the server's encoding.
    pub(crate) fn with_text<T>(self, body: impl FnOnce(&[u8]) -> T) -> T {
        // An object without fields.
        if self.0.content() == IS_OBJECT.to_ne_bytes() {
            return body(b"{}");
        }
        // SAFETY: the detoasted value is a jsonb; its text is a C string.
        unsafe {
            let json = pg_sys::pg_detoast_datum(self.0.datum().cast_mut_ptr());
            let root = &raw mut (*json.cast::<pg_sys::Jsonb>()).root;
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), root, 256);
            body(CStr::from_ptr(text).to_bytes())
        }
    }
}

impl<'m> StoredJsonb<'m> {
    /// Parses JSON text. `None` if PostgreSQL can't store it.
    pub fn parse(memory: Memory<'m>, text: &str) -> Option<StoredJsonb<'m>> {
        let content = input::jsonb(text)?;
        let length = content.len() + WORD;
        let room = memory.room(length);
        let (header, body) = room.split_at_mut(WORD);
        header.copy_from_slice(&((length as u32) << 2).to_le_bytes());
        body.copy_from_slice(&content);
        // SAFETY: a varlena with a header of four bytes, aligned as allocations are, and as long
        // as the header says.
        Some(StoredJsonb(unsafe { StoredValue::new(Datum::from(room.as_ptr())) }))
    }

    /// An object without fields.
    pub fn empty_object() -> StoredJsonb<'m> {
        #[repr(C, align(8))]
        struct Image([u8; 2 * WORD]);
        // The length, in the form of a header of four bytes, and the word of an object.
        static IMAGE: Image = Image([2 * WORD as u8 * 4, 0, 0, 0, 0, 0, 0, 0x20]);
        // SAFETY: a varlena with a header of four bytes, which says 8.
        StoredJsonb(unsafe { StoredValue::new(Datum::from(IMAGE.0.as_ptr())) })
    }
}

/// A value inside a jsonb.
#[derive(Clone, Copy)]
pub enum Json<'a> {
    Object(Container<'a>),
    Array(Container<'a>),
    Text(&'a [u8]),
    Null,
    /// As numeric stores it.
    Number(&'a [u8]),
    /// A boolean.
    Other,
}

/// An object's keys and values, or an array's elements.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    entries: &'a [u8],
    data: &'a [u8],
    count: usize,
}

// The layout is that of PostgreSQL's jsonb.h: a word with the count and the kind of the container,
// a word for each child (in an object first all keys, then all values), then the data of the
// children.
const COUNT: u32 = 0x0fff_ffff;
const IS_SCALAR: u32 = 0x1000_0000;
const IS_OBJECT: u32 = 0x2000_0000;
const LENGTH: u32 = 0x0fff_ffff;
const KIND: u32 = 0x7000_0000;
const KIND_TEXT: u32 = 0x0000_0000;
const KIND_NUMBER: u32 = 0x1000_0000;
const KIND_NULL: u32 = 0x4000_0000;
const KIND_CONTAINER: u32 = 0x5000_0000;
const IS_OFFSET: u32 = 0x8000_0000;
const WORD: usize = 4;

impl<'a> Json<'a> {
    /// `content` is the value without its varlena header.
    #[inline]
    pub fn new(content: &'a [u8]) -> Json<'a> {
        let Some((container, head)) = read(content) else { return Json::Other };
        match head {
            _ if head & IS_OBJECT != 0 => Json::Object(container),
            _ if head & IS_SCALAR != 0 => container.children().next().unwrap_or(Json::Other),
            _ => Json::Array(container),
        }
    }

    /// A number that is whole, not negative and less than 10^16.
    pub fn whole_number(self) -> Option<u64> {
        match self {
            Json::Number(image) => whole(image),
            _ => None,
        }
    }

    fn is_plain(self, levels: usize) -> bool {
        match self {
            Json::Object(of) | Json::Array(of) => {
                levels > 0 && of.children().all(|child| child.is_plain(levels - 1))
            }
            Json::Number(image) => is_short(image).unwrap_or(false),
            Json::Text(_) | Json::Null | Json::Other => true,
        }
    }
}

/// The value of a number, if it is whole, not negative and less than 10^16.
fn whole(numeric: &[u8]) -> Option<u64> {
    const IS_SHORT_FORM: u16 = 0x8000;
    const IS_NEGATIVE: u16 = 0x2000;
    /// Of a weight in the short form: six bits and a sign.
    const WEIGHT: u16 = 0x003f;
    const WEIGHT_SIGN: u16 = 0x0040;
    const MOST_WEIGHT: i16 = 3;
    let header = if numeric.first()? & 1 == 1 { 1 } else { WORD };
    let half = |at: usize| numeric.get(header + at..)?.first_chunk().copied();
    let head = u16::from_ne_bytes(half(0)?);
    let (is_negative, weight, digits) = match head & 0xc000 {
        0xc000 => return None,
        IS_SHORT_FORM => {
            let weight = (head & WEIGHT) as i16;
            let weight = if head & WEIGHT_SIGN != 0 { weight - 64 } else { weight };
            (head & IS_NEGATIVE != 0, weight, header + 2)
        }
        sign => (sign != 0, i16::from_ne_bytes(half(2)?), header + 4),
    };
    let digits = numeric.get(digits..)?;
    if digits.is_empty() {
        return Some(0);
    }
    // There are no zeros after the last digit that counts, so more digits than these are a fraction.
    let count = digits.len() / 2;
    if is_negative || !(0..=MOST_WEIGHT).contains(&weight) || count > weight as usize + 1 {
        return None;
    }
    let digit = |index: usize| {
        let digit = digits.get(2 * index..).and_then(<[u8]>::first_chunk);
        digit.map_or(0, |digit| u64::from(u16::from_ne_bytes(*digit)))
    };
    Some((0..=weight as usize).fold(0, |number, index| number * 10_000 + digit(index)))
}

/// Whether the text of a number is not much longer than the number: it has few more digits than are
/// stored.
fn is_short(numeric: &[u8]) -> Option<bool> {
    // The layout is that of PostgreSQL's numeric.c: the varlena header, of one byte or of four; a
    // word that says which form follows; the weight; and the digits in base 10000.
    const IS_SHORT_FORM: u16 = 0x8000;
    const SCALE: u16 = 0x3fff;
    /// Those of the greatest double, and of the least, fit.
    const MOST_ZEROS: usize = 800;
    let header = if numeric.first()? & 1 == 1 { 1 } else { WORD };
    let half = |at: usize| numeric.get(header + at..)?.first_chunk().copied();
    let head = u16::from_ne_bytes(half(0)?);
    // That form has room for some 300 digits only.
    if head & IS_SHORT_FORM != 0 {
        return Some(true);
    }
    let before = usize::try_from(i16::from_ne_bytes(half(2)?)).map_or(0, |weight| 4 * (weight + 1));
    Some(before + usize::from(head & SCALE) <= 2 * numeric.len() + MOST_ZEROS)
}

fn read(content: &[u8]) -> Option<(Container<'_>, u32)> {
    let head = word(content, 0)?;
    let count = (head & COUNT) as usize;
    let children = if head & IS_OBJECT != 0 { count.checked_mul(2)? } else { count };
    let (entries, data) = content.get(WORD..)?.split_at_checked(children.checked_mul(WORD)?)?;
    Some((Container { entries, data, count }, head))
}

/// Where the data of a child ends, if it begins at `start`.
fn end_of(start: usize, entry: u32) -> usize {
    let length = (entry & LENGTH) as usize;
    if entry & IS_OFFSET != 0 { length } else { start + length }
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    bytes.get(index * WORD..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

impl<'a> Container<'a> {
    /// All children, in the order in which they are stored.
    #[inline]
    pub fn children(self) -> impl Iterator<Item = Json<'a>> {
        self.children_from(0)
    }

    /// The children from this number on.
    #[inline]
    fn children_from(self, first: usize) -> impl Iterator<Item = Json<'a>> {
        let before = (0..first).map_while(move |index| word(self.entries, index));
        let mut start = before.fold(0, end_of);
        (first..self.entries.len() / WORD).map_while(move |index| {
            let entry = word(self.entries, index)?;
            let end = end_of(start, entry);
            let child = self.data.get(start..end);
            // A container is aligned, and its length includes the padding.
            let aligned = self.data.get(start.next_multiple_of(WORD)..end);
            start = end;
            Some(match entry & KIND {
                KIND_TEXT => Json::Text(child?),
                KIND_NULL => Json::Null,
                KIND_CONTAINER => Json::new(aligned?),
                KIND_NUMBER => Json::Number(aligned?),
                _ => Json::Other,
            })
        })
    }

    /// An object's keys with their values.
    #[inline]
    pub fn pairs(self) -> impl Iterator<Item = (&'a [u8], Json<'a>)> {
        let keys = self.children().take(self.count);
        keys.zip(self.children_from(self.count)).filter_map(|(key, value)| match key {
            Json::Text(key) => Some((key, value)),
            _ => None,
        })
    }
}
