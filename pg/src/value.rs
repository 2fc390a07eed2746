//! A value of a row.

use crate::varlena;
use crate::varlena::Bytes;
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute, MemoryContext, Oid};
use std::marker::PhantomData;

/// A value of a row, with its column's type. It is not null.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    datum: Datum,
    kind: Oid,
    is_varlena: bool,
    memory: MemoryContext,
    _row: PhantomData<&'a ()>,
}

impl<'a> Value<'a> {
    /// # Safety
    /// The value must be of the column's type. The value and the memory context must live for `'a`.
    pub unsafe fn new(
        datum: Datum,
        column: &FormData_pg_attribute,
        memory: MemoryContext,
    ) -> Value<'a> {
        let is_varlena = column.attlen == -1;
        Value { datum, kind: column.atttypid, is_varlena, memory, _row: PhantomData }
    }

    pub fn datum(self) -> Datum {
        self.datum
    }

    pub fn kind(self) -> Oid {
        self.kind
    }

    /// The same datum as a value of another type.
    ///
    /// # Safety
    /// Values of both types must have the same representation.
    pub(crate) unsafe fn of_kind(self, kind: Oid) -> Value<'a> {
        Value { kind, ..self }
    }

    /// The content of a value of variable length. A toasted value is detoasted into memory that
    /// lives as long as the row.
    pub fn bytes(self) -> &'a [u8] {
        self.must_be_varlena();
        // SAFETY: a varlena, which lives as long as the row. So does the memory context that it is
        // detoasted into. After an error PostgreSQL switches to another context.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.memory);
            let bytes = varlena::bytes(self.datum);
            pg_sys::MemoryContextSwitchTo(before);
            bytes
        }
    }

    /// The content, unless it is longer than `most`: then it is not detoasted.
    pub fn bytes_up_to(self, most: usize) -> Bytes<'a> {
        self.must_be_varlena();
        // SAFETY: the value is a varlena.
        let length = unsafe { varlena::length(self.datum) };
        if length > most { Bytes::TooLong } else { Bytes::Read(self.bytes()) }
    }

    /// Whether two values of variable length have the same content. Toasted values are detoasted
    /// only if their headers do not decide it.
    pub fn is_same_as(self, other: Value) -> bool {
        self.must_be_varlena();
        other.must_be_varlena();
        // SAFETY: both values are varlenas, and a varlena's header has its stored length.
        unsafe {
            let image = |datum: Datum| {
                let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
                std::slice::from_raw_parts(pointer.cast::<u8>(), pgrx::varsize_any(pointer))
            };
            image(self.datum) == image(other.datum)
                || varlena::length(self.datum) == varlena::length(other.datum)
                    && self.bytes() == other.bytes()
        }
    }

    fn must_be_varlena(self) {
        if !self.is_varlena {
            pgrx::error!("a value of type {} is read as one of variable length", self.kind);
        }
    }
}
