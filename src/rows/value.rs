//! Values of columns that hold digests.

use crate::pepper;
use keysmith_core::rows::stored::{Algorithm, Stored, TEXT_MOST};
use pg::error::{Code, Error, Result};
use pg::spi::Param;
use pg::text::{self, is_utf8, utf8};
use pg::varlena::Bytes;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, FormData_pg_attribute};
use std::borrow::Cow;

/// The type of a column that can hold digests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bytes,
}

impl Kind {
    /// The kind of a column, if it can hold digests. A domain can't: its checks are for values, not
    /// for digests. Nor can a varchar that is shorter than a digest.
    pub fn of(attribute: &FormData_pg_attribute) -> Option<Kind> {
        let most = usize::try_from(attribute.atttypmod - pg_sys::VARHDRSZ as i32).ok();
        match attribute.atttypid {
            pg_sys::TEXTOID => Some(Kind::Text),
            pg_sys::VARCHAROID => most.is_none_or(|most| most >= TEXT_MOST).then_some(Kind::Text),
            pg_sys::BYTEAOID => Some(Kind::Bytes),
            _ => None,
        }
    }

    /// The bytes of a value that are digested. Text is converted to UTF-8, so that its digest is the
    /// same in databases of other encodings.
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

    /// Raises no error: an error could reveal a row that the caller may not see.
    pub fn matches(self, content: &[u8], stored: &[u8]) -> bool {
        let Some(stored) = self.read(stored) else { return false };
        if self == Kind::Bytes || is_utf8() {
            return stored.matches(content, pepper::peppers());
        }
        // A value that can't be converted to UTF-8, or is too long for that, was never stored.
        pgrx::PgTryBuilder::new(|| stored.matches(&utf8(content), pepper::peppers()))
            .catch_when(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, |_| false)
            .catch_when(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, |_| false)
            .execute()
    }

    /// The stored digest, if the value has the form of one.
    pub fn read(self, stored: &[u8]) -> Option<Stored> {
        match self {
            Kind::Text => Stored::from_text(stored),
            Kind::Bytes => Stored::from_bytes(stored),
        }
    }

    /// Whether a value, fetched up to `TEXT_MOST`, has the form of a stored digest.
    pub fn is_stored(self, value: Bytes) -> bool {
        matches!(value, Bytes::Read(content) if self.read(content).is_some())
    }

    /// The digest as the column stores it.
    pub fn content(self, stored: &Stored) -> Vec<u8> {
        match self {
            Kind::Text => stored.to_text().into_bytes(),
            Kind::Bytes => stored.to_bytes().to_vec(),
        }
    }

    /// The same, for PostgreSQL. The text is of ASCII.
    pub fn param(self, content: &[u8]) -> Param<'_> {
        match self {
            Kind::Text => Param::server_text(Some(content)),
            Kind::Bytes => Param::bytes(content),
        }
    }
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
