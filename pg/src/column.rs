//! Columns of the extension's tables: a number, and the type of the values.

use pgrx::pg_sys::BuiltinOid;
use std::marker::PhantomData;

/// A column's name and its type.
pub type Definition = (&'static str, BuiltinOid);

/// A column of a table, with the type of its values.
pub struct Column<T> {
    number: i16,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Column<T> {
    fn clone(&self) -> Column<T> {
        *self
    }
}

impl<T> Copy for Column<T> {}

impl<T: Kind> Column<T> {
    /// Numbers begin with 1.
    pub const fn new(number: i16) -> Column<T> {
        Column { number, kind: PhantomData }
    }

    #[inline]
    pub const fn number(self) -> i16 {
        self.number
    }
}

/// A type that a column can have.
pub trait Kind {
    const OID: BuiltinOid;
}

/// A type whose values have variable length.
pub trait Varying: Kind {}

macro_rules! kinds {
    ($($kind:ident = $oid:ident $(, $varying:ident)?;)*) => {$(
        pub struct $kind;

        impl Kind for $kind {
            const OID: BuiltinOid = BuiltinOid::$oid;
        }

        $(impl $varying for $kind {})?
    )*};
}

kinds! {
    Bigint = INT8OID;
    Boolean = BOOLOID;
    Bytea = BYTEAOID, Varying;
    Integer = INT4OID;
    Interval = INTERVALOID;
    Jsonb = JSONBOID, Varying;
    Networks = CIDRARRAYOID, Varying;
    Oid = OIDOID;
    Regrole = REGROLEOID;
    Smallint = INT2OID;
    Text = TEXTOID, Varying;
    Texts = TEXTARRAYOID, Varying;
    Timestamp = TIMESTAMPTZOID;
    Uuid = UUIDOID;
}

/// An array type whose elements have variable length.
pub trait Array: Kind {}

impl Array for Networks {}
impl Array for Texts {}

/// A type whose values are OIDs.
pub trait Names: Kind {}

impl Names for Oid {}
impl Names for Regrole {}
