//! Types, and how their values are written.

use crate::context::Owned;
use crate::transaction::must_be_in_progress;
use crate::value::Value;
use crate::varlena;
use pgrx::pg_sys::{self, Datum, FmgrInfo, Oid};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int};
use std::rc::Rc;

/// A type's name with its schema, in the database's encoding. `modifier` is what the type's
/// columns say beside it, as the length of a varchar.
pub fn name(kind: Oid, modifier: Option<i32>) -> Vec<u8> {
    must_be_in_progress();
    let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY
        | modifier.map_or(0, |_| pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN);
    // SAFETY: gives a C string in the current memory context, or an error if there is no such
    // type.
    unsafe {
        let flags = flags as pg_sys::bits16;
        let name = pg_sys::format_type_extended(kind, modifier.unwrap_or(-1), flags);
        CStr::from_ptr(name).to_bytes().to_vec()
    }
}

/// The type that a domain is made of; of any other type, itself.
pub fn base(kind: Oid) -> Oid {
    must_be_in_progress();
    // SAFETY: an error if there is no such type.
    unsafe { pg_sys::getBaseType(kind) }
}

/// A value of a domain as one of the type that the domain is made of.
pub fn of_base_type(value: Value) -> Value {
    // SAFETY: a domain's values are values of that type.
    unsafe { value.of_kind(base(value.kind())) }
}

/// The type of an array's elements.
pub fn element(kind: Oid) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a look-up, which gives InvalidOid for a type that is no array.
    let element = unsafe { pg_sys::get_element_type(kind) };
    (element != Oid::INVALID).then_some(element)
}

pub fn is_composite(kind: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: a look-up, which gives 0 if there is no such type.
    (unsafe { pg_sys::get_typtype(kind) }) as u8 == pg_sys::TYPTYPE_COMPOSITE
}

/// A type's function that writes its values.
pub struct Output {
    kind: Oid,
    is_binary: bool,
    function: Box<UnsafeCell<FmgrInfo>>,
    /// What the function remembers from value to value.
    _memory: Rc<Owned>,
}

impl Output {
    /// Writes values in their binary form, which not every type has.
    pub fn binary(kind: Oid, memory: &Rc<Owned>) -> Option<Output> {
        let send = send_function(base(kind))?;
        Some(Output::new(kind, send, true, memory))
    }

    /// Writes values as text.
    pub fn text(kind: Oid, memory: &Rc<Owned>) -> Output {
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        // SAFETY: an error if there is no such type.
        unsafe { pg_sys::getTypeOutputInfo(base(kind), &mut output, &mut is_varlena) };
        Output::new(kind, output, false, memory)
    }

    fn new(kind: Oid, function: Oid, is_binary: bool, memory: &Rc<Owned>) -> Output {
        let mut info = Box::new(UnsafeCell::new(FmgrInfo::default()));
        // SAFETY: the record stays where it is, and lives no longer than the memory.
        unsafe { pg_sys::fmgr_info_cxt(function, info.get_mut(), memory.get()) };
        Output { kind, is_binary, function: info, _memory: memory.clone() }
    }

    /// A value as it is written; text is in the database's encoding.
    pub fn written(&self, value: Value) -> Vec<u8> {
        if value.kind() != self.kind {
            pgrx::error!("a value of type {} is written as one of {}", value.kind(), self.kind);
        }
        let (function, datum) = (self.function.get(), value.datum());
        // SAFETY: the value is of the function's type. A function for binary output gives a
        // bytea, another a C string. No reference to the record is held.
        unsafe {
            if self.is_binary {
                varlena::bytes(Datum::from(pg_sys::SendFunctionCall(function, datum))).to_vec()
            } else {
                CStr::from_ptr(pg_sys::OutputFunctionCall(function, datum)).to_bytes().to_vec()
            }
        }
    }
}

/// A type's function for binary output.
fn send_function(kind: Oid) -> Option<Oid> {
    // SAFETY: the entry is released after it is read.
    unsafe {
        let entry =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as c_int, kind.into());
        if entry.is_null() {
            return None;
        }
        let send = (*pg_sys::GETSTRUCT(entry).cast::<pg_sys::FormData_pg_type>()).typsend;
        pg_sys::ReleaseSysCache(entry);
        (send != Oid::INVALID).then_some(send)
    }
}
