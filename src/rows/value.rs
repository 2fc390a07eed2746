//! Values of columns that hold digests.

use crate::pepper;
use keysmith_core::rows::stored::{Algorithm, Stored, TEXT_MOST};
use pg::error::{Code, Error, Result};
use pg::text;
use pg::varlena;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute};
use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int};

/// What a column is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bytes,
}

impl Kind {
    /// The kind of a column that can hold digests. A domain's rules are for values, not
    /// for their digests; a shorter varchar would hold what is longer than it allows.
    pub fn of(attribute: &FormData_pg_attribute) -> Option<Kind> {
        let most = usize::try_from(attribute.atttypmod - pg_sys::VARHDRSZ as i32).ok();
        match attribute.atttypid {
            pg_sys::TEXTOID => Some(Kind::Text),
            pg_sys::VARCHAROID => most.is_none_or(|most| most >= TEXT_MOST).then_some(Kind::Text),
            pg_sys::BYTEAOID => Some(Kind::Bytes),
            _ => None,
        }
    }

    /// What is digested of a value: a text in UTF-8, so that its digest is the same in
    /// databases of other encodings.
    fn plain<'a>(self, content: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Kind::Text => utf8(content),
            Kind::Bytes => Cow::Borrowed(content),
        }
    }

    pub fn digest(self, algorithm: Algorithm, content: &[u8]) -> Result<Stored> {
        Stored::of(algorithm, &self.plain(content), pepper::peppers()).ok_or_else(|| {
            Error::new(Code::Pepper, "the algorithm hmac needs a pepper, and there is none")
                .hint("See \"Peppers\" in SECURITY.md.")
        })
    }

    pub fn candidates(self, content: &[u8]) -> Vec<Stored> {
        Stored::candidates(&self.plain(content), pepper::peppers())
    }

    /// Raises no error: one could tell of a row that its asker may not see.
    pub fn matches(self, content: &[u8], stored: &[u8]) -> bool {
        let Some(stored) = self.read(stored) else { return false };
        if self == Kind::Bytes || is_utf8() {
            return stored.matches(content, pepper::peppers());
        }
        // A value with a character that has no UTF-8 form was never stored, nor one that
        // is too long to be converted.
        pgrx::PgTryBuilder::new(|| stored.matches(&utf8(content), pepper::peppers()))
            .catch_when(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, |_| false)
            .catch_when(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, |_| false)
            .execute()
    }

    /// A stored digest, if that is what it looks like.
    pub fn read(self, stored: &[u8]) -> Option<Stored> {
        match self {
            Kind::Text => Stored::from_text(stored),
            Kind::Bytes => Stored::from_bytes(stored),
        }
    }

    /// Whether a value has the form of a stored digest. One that is too long is not fetched.
    ///
    /// # Safety
    /// The value must be a valid varlena.
    pub unsafe fn is_stored(self, value: Datum) -> bool {
        // SAFETY: as the caller promises.
        unsafe { varlena::length(value) <= TEXT_MOST && self.read(varlena::bytes(value)).is_some() }
    }

    /// What the column gets to hold: its content, and the same in memory of PostgreSQL's.
    pub fn datum(self, stored: &Stored) -> (Vec<u8>, Datum) {
        let content = match self {
            Kind::Text => stored.to_text().into_bytes(),
            Kind::Bytes => stored.to_bytes().to_vec(),
        };
        let datum = varlena_of(&content);
        (content, datum)
    }
}

/// A text or bytea, in the current memory context.
pub fn varlena_of(content: &[u8]) -> Datum {
    // SAFETY: the length is that of the slice, which is copied. A bytea has a text's
    // layout.
    let copy = unsafe {
        pg_sys::cstring_to_text_with_len(content.as_ptr().cast(), content.len() as c_int)
    };
    copy.into()
}

/// Whether text of the database is UTF-8 already, or of no known encoding.
fn is_utf8() -> bool {
    // SAFETY: set when the backend connected.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding == pg_sys::pg_enc::PG_UTF8 as c_int
        || encoding == pg_sys::pg_enc::PG_SQL_ASCII as c_int
}

/// Whether a text has a form in the database's encoding.
pub fn is_representable(content: &str) -> bool {
    if content.contains('\0') {
        return false;
    }
    is_utf8()
        || pgrx::PgTryBuilder::new(|| {
            text::to_server(content);
            true
        })
        .catch_when(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, |_| false)
        .execute()
}

/// Text of the database in UTF-8. Bytes of a database without an encoding stay as they
/// are. PostgreSQL raises an error for a character that has no UTF-8 form.
pub fn utf8(content: &[u8]) -> Cow<'_, [u8]> {
    if is_utf8() {
        return Cow::Borrowed(content);
    }
    // SAFETY: the length is that of the slice; the conversion reads no further, and
    // answers with its argument or with a C string of its own.
    unsafe {
        let utf8 = pg_sys::pg_enc::PG_UTF8 as c_int;
        let source = content.as_ptr().cast::<c_char>();
        let Ok(length) = c_int::try_from(content.len()) else { return Cow::Borrowed(content) };
        let converted = pg_sys::pg_server_to_any(source, length, utf8);
        if converted.cast_const() == source {
            return Cow::Borrowed(content);
        }
        let copy = CStr::from_ptr(converted).to_bytes().to_vec();
        pg_sys::pfree(converted.cast());
        Cow::Owned(copy)
    }
}

/// The database's text as a Rust string, for messages.
pub fn shown(content: &[u8]) -> String {
    text::lossy(content)
}

/// A name, quoted where a statement needs it.
pub fn quoted(name: &str) -> String {
    let server = text::to_server(name);
    // SAFETY: a C string; the answer is it or a copy in the current memory context.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_identifier(server.as_ptr())) };
    shown(quoted.to_bytes())
}

/// A text as a statement has it.
pub fn literal(content: &str) -> String {
    let server = text::to_server(content);
    // SAFETY: as above.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(server.as_ptr())) };
    shown(quoted.to_bytes())
}

/// Whether two values are the same, byte by byte. What is stored outside of its row, or
/// compressed, is fetched only if that decides it.
///
/// # Safety
/// Both must be valid varlenas.
pub unsafe fn same(left: Datum, right: Datum) -> bool {
    // SAFETY: as the caller promises; a varlena's header tells how long it is itself.
    unsafe {
        let image = |datum: Datum| {
            let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
            std::slice::from_raw_parts(pointer.cast::<u8>(), pgrx::varsize_any(pointer))
        };
        image(left) == image(right)
            || varlena::length(left) == varlena::length(right)
                && varlena::bytes(left) == varlena::bytes(right)
    }
}
