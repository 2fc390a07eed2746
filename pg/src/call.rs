//! A call of a function from SQL: its arguments, and the memory context for its result.

use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::jsonb::{Json, Jsonb};
use crate::scratch::Memory;
use crate::text;
pub use crate::varlena::Bytes;
use crate::varlena::{self, ArrayView};
use pgrx::pg_sys::{self, Datum, Oid};
use std::net::IpAddr;

/// Declares functions that SQL can call: `sql_symbol => path::to::function`,
/// each of them `fn(&Call) -> Result<Option<Datum>>`, where `None` is null.
#[macro_export]
macro_rules! sql_functions {
    ($($symbol:ident => $function:path;)*) => {$(
        const _: () = {
            $crate::call::finfo!($symbol);

            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $symbol(
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL passes a valid call frame. This frame holds nothing
                // that needs dropping.
                unsafe {
                    let result = $crate::callback::guarded(|| {
                        $crate::memory::Watch::keep(|| {
                            $function(&$crate::call::Call::new(fcinfo))
                        })
                    });
                    result.unwrap_or_else(|| {
                        (*fcinfo).isnull = true;
                        pgrx::pg_sys::Datum::null()
                    })
                }
            }
        };
    )*};
}
pub use sql_functions;

/// Declares that a function follows version 1 of PostgreSQL's calling convention.
#[doc(hidden)]
#[macro_export]
macro_rules! finfo {
    ($symbol:ident) => {
        #[unsafe(export_name = concat!("pg_finfo_", stringify!($symbol)))]
        extern "C" fn finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}
pub use finfo;

/// The call frame of a function, and the memory context that was current when the call began.
pub struct Call(pg_sys::FunctionCallInfo, pg_sys::MemoryContext);

impl Call {
    /// # Safety
    /// The frame must be valid for as long as the `Call` is used, and its arguments
    /// must be of the types that the methods below are asked for.
    #[inline]
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: CurrentMemoryContext is always set.
        Call(fcinfo, unsafe { pg_sys::CurrentMemoryContext })
    }

    /// PostgreSQL's call frame.
    pub fn frame(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    /// An argument as a datum; `None` for a null. Arguments are numbered from 0.
    #[inline]
    pub fn datum(&self, n: usize) -> Option<Datum> {
        // SAFETY: the SQL declaration has the argument `n`.
        let argument = unsafe { &*(*self.0).args.as_ptr().add(n) };
        (!argument.isnull).then_some(argument.value)
    }

    /// The content of a text or bytea. A value of more than `most` bytes is not detoasted. A value
    /// that is stored plainly is borrowed.
    #[inline]
    pub fn bytes(&self, n: usize, most: usize) -> Option<Bytes<'_>> {
        self.datum(n).map(|datum| {
            // SAFETY: the argument is a varlena, which lives as long as the call.
            unsafe { Bytes::new(datum, most) }
        })
    }

    /// A text, which may be null.
    pub fn text(&self, n: usize, name: &str) -> Result<Option<String>> {
        const MOST: usize = 64 * 1024;
        match self.bytes(n, MOST) {
            None => Ok(None),
            Some(Bytes::TooLong) => Err(Error::argument(name, "is far too long")),
            Some(Bytes::Read(bytes)) => text::from_server(bytes)
                .map(Some)
                .ok_or_else(|| Error::argument(name, "must be text that has a UTF-8 form")),
        }
    }

    /// A text that must not be null.
    pub fn required_text(&self, n: usize, name: &str) -> Result<String> {
        self.text(n, name)?.ok_or_else(|| must_not_be_null(name))
    }

    /// A boolean that must not be null.
    pub fn boolean(&self, n: usize, name: &str) -> Result<bool> {
        self.datum(n).map(|datum| datum.value() != 0).ok_or_else(|| must_not_be_null(name))
    }

    pub fn integer(&self, n: usize) -> Option<i32> {
        self.datum(n).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, n: usize) -> Option<i64> {
        self.datum(n).map(|datum| datum.value() as i64)
    }

    pub fn timestamp(&self, n: usize) -> Option<i64> {
        self.datum(n).map(|datum| datum.value() as i64)
    }

    /// A uuid that must not be null.
    pub fn uuid(&self, n: usize, name: &str) -> Result<[u8; 16]> {
        // SAFETY: a uuid is passed as a pointer to its 16 bytes.
        let uuid = self.datum(n).map(|datum| unsafe { *datum.cast_mut_ptr::<[u8; 16]>() });
        uuid.ok_or_else(|| must_not_be_null(name))
    }

    /// An interval that must not be null.
    pub fn interval(&self, n: usize, name: &str) -> Result<pg_sys::Interval> {
        // SAFETY: an interval is passed as a pointer to its struct.
        let interval =
            self.datum(n).map(|datum| unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() });
        interval.ok_or_else(|| must_not_be_null(name))
    }

    /// The address of an inet, without its prefix length.
    #[inline]
    pub fn address(&self, n: usize) -> Option<IpAddr> {
        // SAFETY: an inet is a varlena; it is short and lives as long as the call.
        let bytes = self.datum(n).map(|datum| unsafe { varlena::bytes(datum) })?;
        varlena::network(bytes).map(|(address, _)| address)
    }

    /// A jsonb whose parts are read in place.
    #[inline]
    pub fn json(&self, n: usize) -> Option<Json<'_>> {
        // SAFETY: the argument is a jsonb, which lives as long as the call.
        self.datum(n).map(|datum| Json::new(unsafe { varlena::bytes(datum) }))
    }

    /// A jsonb as a single value.
    pub fn jsonb(&self, n: usize) -> Option<Jsonb<'_>> {
        // SAFETY: as above.
        self.datum(n).map(|datum| unsafe { Jsonb::new(datum) })
    }

    /// An argument, to be passed on unchanged. An error if the function declares it with another
    /// type.
    pub fn given(&self, n: usize, kind: Oid) -> Cell<'_> {
        let (mut kinds, mut count) = (std::ptr::null_mut(), 0);
        // SAFETY: `flinfo` is null or names the function. PostgreSQL passes arguments of the
        // declared types, which live as long as the call.
        unsafe {
            let function = (*self.0).flinfo;
            let is_declared = !function.is_null() && {
                pg_sys::get_func_signature((*function).fn_oid, &mut kinds, &mut count);
                i32::try_from(n).is_ok_and(|n| n < count) && *kinds.add(n) == kind
            };
            if !is_declared {
                pgrx::error!("the library does not fit the arguments of this function");
            }
            Cell::made(kind, self.datum(n))
        }
    }

    /// The memory context for results.
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        // SAFETY: the caller's memory context outlives the call.
        unsafe { Memory::new(self.1) }
    }

    /// An array, such as a text[].
    #[inline]
    pub fn array(&self, n: usize) -> Option<ArrayView<'_>> {
        // SAFETY: the argument is an array, which lives as long as the call.
        self.datum(n).map(|datum| unsafe { ArrayView::new(varlena::bytes(datum)) })
    }

    /// The elements of a text[], which must not be null, as strings.
    pub fn strings(&self, n: usize, name: &str) -> Result<Vec<String>> {
        strings(self.array(n).ok_or_else(|| must_not_be_null(name))?, name)
    }
}

/// The elements of an array of texts as strings.
pub fn strings(array: ArrayView, name: &str) -> Result<Vec<String>> {
    const MOST: usize = 100_000;
    if array.len() > MOST {
        return Err(Error::argument(name, "has far too many elements"));
    }
    let string = |text: Option<&[u8]>| {
        let bytes = text.ok_or_else(|| Error::argument(name, "must not contain a null"))?;
        text::from_server(bytes)
            .ok_or_else(|| Error::argument(name, "must be text that has a UTF-8 form"))
    };
    array.iter().map(string).collect()
}

/// The error for an argument that is null.
pub fn must_not_be_null(name: &str) -> Error {
    Error::argument(name, "must not be null")
}
