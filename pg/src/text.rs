//! Conversion of text between the database's encoding and Rust's UTF-8.

use pgrx::pg_sys;
use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int};

/// Converts text in the database's encoding to a Rust string; `None` if it has no UTF-8 form, as
/// some bytes in an SQL_ASCII database.
pub fn from_server(bytes: &[u8]) -> Option<String> {
    // SAFETY: the length is that of the slice. The conversion reads no further, and returns its
    // argument or a palloc'ed C string.
    unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        let utf8 = pg_sys::pg_enc::PG_UTF8 as c_int;
        let sql_ascii = pg_sys::pg_enc::PG_SQL_ASCII as c_int;
        if encoding == utf8 || encoding == sql_ascii {
            return String::from_utf8(bytes.to_vec()).ok();
        }
        let source = bytes.as_ptr().cast::<c_char>();
        let converted = pg_sys::pg_server_to_any(source, c_int::try_from(bytes.len()).ok()?, utf8);
        if converted.cast_const() == source {
            return String::from_utf8(bytes.to_vec()).ok();
        }
        let text = CStr::from_ptr(converted).to_str().map(str::to_owned).ok();
        pg_sys::pfree(converted.cast());
        text
    }
}

/// A role's name. Databases of all encodings share the roles, so a name may be invalid in the
/// encoding of this one. Such a name is shown by its bytes in hexadecimal and the role's OID.
pub fn name_of_role(role: pg_sys::Oid) -> String {
    // SAFETY: returns a C string, or null for a role that is just being dropped.
    let name = unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return format!("unknown (oid {role})");
        }
        CStr::from_ptr(name).to_bytes()
    };
    // A failed conversion raises an error, and has no side effects.
    let text = pgrx::PgTryBuilder::new(|| from_server(name)).catch_others(|_| None).execute();
    text.unwrap_or_else(|| {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("\\x{hex} (oid {role})")
    })
}

/// Converts text in the database's encoding to a Rust string for display: bytes that have no UTF-8
/// form are replaced.
pub fn lossy(bytes: &[u8]) -> String {
    from_server(bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Converts a Rust string to the database's encoding, for PostgreSQL to copy. The text is cut at a
/// NUL, which text in PostgreSQL can't contain.
pub fn to_server(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    let utf8 = CString::new(text).unwrap_or_default();
    // SAFETY: as in `from_server`, of a NUL-terminated string.
    unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        if encoding == pg_sys::pg_enc::PG_UTF8 as c_int {
            return utf8;
        }
        let Ok(length) = c_int::try_from(text.len()) else { return utf8 };
        let converted =
            pg_sys::pg_any_to_server(utf8.as_ptr(), length, pg_sys::pg_enc::PG_UTF8 as c_int);
        if converted.cast_const() == utf8.as_ptr() {
            return utf8;
        }
        let server = CStr::from_ptr(converted).to_owned();
        pg_sys::pfree(converted.cast());
        server
    }
}

/// The length in bytes of the longest prefix that has whole characters only, and at most `limit`
/// bytes. The text is in the database's encoding.
pub fn clipped(text: &[u8], limit: usize) -> usize {
    let (length, most) = (c_int::try_from(text.len()), c_int::try_from(limit));
    let (length, most) = (length.unwrap_or(c_int::MAX), most.unwrap_or(c_int::MAX));
    // SAFETY: pg_mbcliplen reads the first byte of each character, within the length. In the
    // encodings of databases, the first byte determines the length of the character.
    let clipped = unsafe { pg_sys::pg_mbcliplen(text.as_ptr().cast(), length, most) };
    // An incomplete last character counts with its full length.
    usize::try_from(clipped).unwrap_or_default().min(text.len())
}

/// Whether the bytes are a text in the database's encoding.
pub fn is_valid(bytes: &[u8]) -> bool {
    let Ok(length) = c_int::try_from(bytes.len()) else { return false };
    // SAFETY: reads as many bytes as the slice has, and raises no error.
    unsafe { pg_sys::pg_verifymbstr(bytes.as_ptr().cast(), length, true) }
}

/// A text datum in the database's encoding, in the current memory context.
pub fn datum(text: &str) -> pg_sys::Datum {
    let server = to_server(text);
    // SAFETY: a C string, which is copied.
    unsafe { pg_sys::cstring_to_text(server.as_ptr()) }.into()
}

/// Whether text is used as UTF-8 without conversion: the database's encoding is UTF8 or SQL_ASCII.
pub fn is_utf8() -> bool {
    // SAFETY: reads a variable that is set when the backend connects.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding == pg_sys::pg_enc::PG_UTF8 as c_int
        || encoding == pg_sys::pg_enc::PG_SQL_ASCII as c_int
}

/// Converts text in the database's encoding to UTF-8. In an SQL_ASCII database the bytes stay as
/// they are. PostgreSQL raises an error for a character that has no UTF-8 form.
pub fn utf8(content: &[u8]) -> Cow<'_, [u8]> {
    if is_utf8() {
        return Cow::Borrowed(content);
    }
    // SAFETY: the length is that of the slice. The conversion reads no further, and returns its
    // argument or a palloc'ed C string.
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

/// An identifier for a statement, quoted if necessary.
pub fn quoted_name(name: &str) -> String {
    let server = to_server(name);
    // SAFETY: takes a C string, and returns that or a copy in the current memory context.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_identifier(server.as_ptr())) };
    lossy(quoted.to_bytes())
}

/// A text as a string literal for a statement.
pub fn literal(content: &str) -> String {
    let server = to_server(content);
    // SAFETY: takes a C string, and returns a copy in the current memory context.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(server.as_ptr())) };
    lossy(quoted.to_bytes())
}
