//! Values for PostgreSQL: parameters of statements, and columns of rows. A cell borrows a Rust
//! value. Its datum is made when it is passed to PostgreSQL.

use crate::jsonb::Jsonb;
use crate::value::Value;
use crate::{datum, input, text, varlena};
use pgrx::pg_sys::{self, Datum, ItemPointerData, Oid, TransactionId};
use std::net::IpAddr;

/// A value with its type, or a null of that type.
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    kind: Oid,
    content: Option<Content<'a>>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    /// A datum that is passed by value, or that points to memory borrowed for `'a`.
    Made(Datum),
    Text(&'a str),
    /// A text in the database's encoding.
    ServerText(&'a [u8]),
    Bytes(&'a [u8]),
    Uuid(&'a [u8; 16]),
    Texts(&'a [String]),
    Uuids(&'a [[u8; 16]]),
    /// Days and microseconds.
    Interval(i32, i64),
    Inet(IpAddr),
    /// What the function makes a JSON text from, in the database's encoding.
    Json(&'a [u8], fn(&[u8]) -> Vec<u8>),
    Tid(ItemPointerData),
    /// The elements of an array, and their type.
    Array(&'a [Cell<'a>], Oid),
}

impl<'a> Cell<'a> {
    const fn new(kind: Oid, content: Option<Content<'a>>) -> Cell<'a> {
        Cell { kind, content }
    }

    fn plain(kind: Oid, value: Option<impl Into<Datum>>) -> Cell<'a> {
        Cell::new(kind, value.map(|value| Content::Made(value.into())))
    }

    /// A datum of this type.
    ///
    /// # Safety
    /// The datum must be of the type. Memory that it points to must be valid for `'a`.
    pub unsafe fn made(kind: Oid, datum: Option<Datum>) -> Cell<'a> {
        Cell::plain(kind, datum)
    }

    pub fn text(value: &'a str) -> Cell<'a> {
        Cell::text_or_null(Some(value))
    }

    pub fn text_or_null(value: Option<&'a str>) -> Cell<'a> {
        Cell::new(pg_sys::TEXTOID, value.map(Content::Text))
    }

    /// A text in the database's encoding.
    pub fn server_text(value: Option<&'a [u8]>) -> Cell<'a> {
        Cell::new(pg_sys::TEXTOID, value.map(Content::ServerText))
    }

    pub fn texts(values: &'a [String]) -> Cell<'a> {
        Cell::texts_or_null(Some(values))
    }

    pub fn texts_or_null(values: Option<&'a [String]>) -> Cell<'a> {
        Cell::new(pg_sys::TEXTARRAYOID, values.map(Content::Texts))
    }

    pub fn uuid(value: &'a [u8; 16]) -> Cell<'a> {
        Cell::uuid_or_null(Some(value))
    }

    pub fn uuid_or_null(value: Option<&'a [u8; 16]>) -> Cell<'a> {
        Cell::new(pg_sys::UUIDOID, value.map(Content::Uuid))
    }

    pub fn uuids(values: Option<&'a [[u8; 16]]>) -> Cell<'a> {
        Cell::new(pg_sys::UUIDARRAYOID, values.map(Content::Uuids))
    }

    pub fn bytes(value: &'a [u8]) -> Cell<'a> {
        Cell::new(pg_sys::BYTEAOID, Some(Content::Bytes(value)))
    }

    pub fn bytes_or_null(value: Option<&'a [u8]>) -> Cell<'a> {
        Cell::new(pg_sys::BYTEAOID, value.map(Content::Bytes))
    }

    pub fn integer(value: Option<i32>) -> Cell<'a> {
        Cell::plain(pg_sys::INT4OID, value)
    }

    pub fn smallint(value: i16) -> Cell<'a> {
        Cell::smallint_or_null(Some(value))
    }

    pub fn smallint_or_null(value: Option<i16>) -> Cell<'a> {
        Cell::plain(pg_sys::INT2OID, value)
    }

    pub fn bigint(value: Option<i64>) -> Cell<'a> {
        Cell::plain(pg_sys::INT8OID, value)
    }

    pub fn double(value: f64) -> Cell<'a> {
        Cell::plain(pg_sys::FLOAT8OID, Some(Datum::from(value.to_bits())))
    }

    pub fn boolean(value: bool) -> Cell<'a> {
        Cell::boolean_or_null(Some(value))
    }

    pub fn boolean_or_null(value: Option<bool>) -> Cell<'a> {
        Cell::plain(pg_sys::BOOLOID, value)
    }

    pub fn timestamp(value: Option<i64>) -> Cell<'a> {
        Cell::plain(pg_sys::TIMESTAMPTZOID, value)
    }

    /// An interval of days and microseconds.
    pub fn interval(value: Option<(i32, i64)>) -> Cell<'a> {
        Cell::new(pg_sys::INTERVALOID, value.map(|(days, time)| Content::Interval(days, time)))
    }

    pub fn inet(value: Option<IpAddr>) -> Cell<'a> {
        Cell::new(pg_sys::INETOID, value.map(Content::Inet))
    }

    /// Days since the year 2000.
    pub fn date(value: Option<i32>) -> Cell<'a> {
        Cell::plain(pg_sys::DATEOID, value)
    }

    /// A jsonb, or a null.
    pub fn jsonb(value: Option<Jsonb<'a>>) -> Cell<'a> {
        Cell::new(pg_sys::JSONBOID, value.map(|json| Content::Made(json.datum())))
    }

    /// A jsonb, from what `form` makes a JSON text from, in the database's encoding.
    pub fn json(value: Option<&'a [u8]>, form: fn(&[u8]) -> Vec<u8>) -> Cell<'a> {
        Cell::new(pg_sys::JSONBOID, value.map(|value| Content::Json(value, form)))
    }

    pub fn oid(value: Oid) -> Cell<'a> {
        Cell::plain(pg_sys::OIDOID, Some(value))
    }

    pub fn regclass(value: Oid) -> Cell<'a> {
        Cell::plain(pg_sys::REGCLASSOID, Some(value))
    }

    pub fn tid(value: ItemPointerData) -> Cell<'a> {
        Cell::new(pg_sys::TIDOID, Some(Content::Tid(value)))
    }

    /// A value that was read from a row.
    pub fn value(value: Value<'a>) -> Cell<'a> {
        Cell::plain(value.kind(), Some(value.datum()))
    }

    pub fn null(kind: Oid) -> Cell<'a> {
        Cell::new(kind, None)
    }

    pub fn transaction(value: TransactionId) -> Cell<'a> {
        Cell::plain(pg_sys::XIDOID, Some(Datum::from(value.into_inner())))
    }

    /// An array, from the type of its elements, its own type, and its elements. No element may be
    /// null.
    pub fn array(element: Oid, kind: Oid, elements: &'a [Cell<'a>]) -> Cell<'a> {
        // SAFETY: a syscache look-up, which returns InvalidOid if the type is not an array.
        let is_array = unsafe { pg_sys::get_element_type(kind) } == element;
        if !is_array || elements.iter().any(|value| value.kind != element || value.is_null()) {
            pgrx::error!("an array has an element of another type");
        }
        Cell::new(kind, Some(Content::Array(elements, element)))
    }

    /// The OID of its type.
    pub fn kind(&self) -> Oid {
        self.kind
    }

    pub fn is_null(&self) -> bool {
        self.content.is_none()
    }

    /// The datum, which is valid no longer than the borrowed value: a uuid is not copied.
    pub(crate) fn borrowed(&self) -> Option<Datum> {
        match self.content {
            Some(Content::Uuid(value)) => Some(Datum::from(value.as_ptr())),
            _ => self.datum(),
        }
    }

    /// Whether both are equal texts in the database's encoding.
    pub(crate) fn is_same_text(&self, other: &Cell) -> bool {
        match (self.content, other.content) {
            (Some(Content::ServerText(one)), Some(Content::ServerText(other))) => one == other,
            _ => false,
        }
    }

    /// The datum. Memory for it is allocated in the current memory context.
    pub fn datum(&self) -> Option<Datum> {
        Some(match self.content? {
            Content::Made(datum) => datum,
            Content::Text(value) => text::datum(value),
            Content::ServerText(value) => {
                if !text::is_valid(value) {
                    pgrx::error!("a text is not in the encoding of the database");
                }
                datum::bytes(value)
            }
            Content::Bytes(value) => datum::bytes(value),
            Content::Uuid(value) => datum::uuid(value),
            Content::Texts(values) => {
                varlena::text_array(values.iter().map(|value| text::datum(value)).collect())
            }
            Content::Uuids(values) => varlena::uuid_array(values),
            Content::Interval(days, time) => datum::interval(days, time),
            Content::Json(value, form) => {
                let text = form(value);
                if !text::is_valid(&text) {
                    pgrx::error!("a text is not in the encoding of the database");
                }
                input::server_jsonb(text)
            }
            Content::Inet(value) => datum::inet(value),
            Content::Tid(value) => datum::tid(value),
            Content::Array(values, element) => {
                varlena::array(values.iter().filter_map(Cell::datum).collect(), element)
            }
        })
    }
}
