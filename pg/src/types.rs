//! Types, and their output and send functions.

use crate::context::Owned;
use crate::transaction::must_be_in_progress;
use crate::value::Value;
use crate::varlena;
use pgrx::pg_sys::{self, Datum, FmgrInfo, Oid};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int};
use std::rc::Rc;

/// A type's name with its schema, in the database's encoding. `modifier` is the type modifier of a
/// column, such as the length of a varchar.
pub fn name(kind: Oid, modifier: Option<i32>) -> Vec<u8> {
    must_be_in_progress();
    let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY
        | modifier.map_or(0, |_| pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN);
    // SAFETY: returns a C string in the current memory context, or raises an error if there is no
    // such type.
    unsafe {
        let flags = flags as pg_sys::bits16;
        let name = pg_sys::format_type_extended(kind, modifier.unwrap_or(-1), flags);
        CStr::from_ptr(name).to_bytes().to_vec()
    }
}

/// The base type of a domain; any other type itself.
pub fn base(kind: Oid) -> Oid {
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if there is no such type.
    unsafe { pg_sys::getBaseType(kind) }
}

/// A value of a domain, as a value of its base type.
pub fn of_base_type(value: Value) -> Value {
    // SAFETY: a value of a domain is a value of its base type.
    unsafe { value.of_kind(base(value.kind())) }
}

/// The type of an array's elements.
pub fn element(kind: Oid) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: a syscache look-up, which returns InvalidOid for a type that is not an array.
    let element = unsafe { pg_sys::get_element_type(kind) };
    (element != Oid::INVALID).then_some(element)
}

pub fn is_composite(kind: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: a syscache look-up, which returns 0 if there is no such type.
    (unsafe { pg_sys::get_typtype(kind) }) as u8 == pg_sys::TYPTYPE_COMPOSITE
}

/// The output function or send function of a type.
pub struct Output {
    kind: Oid,
    is_binary: bool,
    function: Box<UnsafeCell<FmgrInfo>>,
    /// The memory context for what the function keeps between calls.
    _memory: Rc<Owned>,
}

impl Output {
    /// The send function, which writes values in binary form; `None` if the type has no such
    /// function.
    pub fn binary(kind: Oid, memory: &Rc<Owned>) -> Option<Output> {
        let send = send_function(base(kind))?;
        Some(Output::new(kind, send, true, memory))
    }

    /// The output function, which writes values as text.
    pub fn text(kind: Oid, memory: &Rc<Owned>) -> Output {
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        // SAFETY: PostgreSQL raises an error if there is no such type.
        unsafe { pg_sys::getTypeOutputInfo(base(kind), &mut output, &mut is_varlena) };
        Output::new(kind, output, false, memory)
    }

    fn new(kind: Oid, function: Oid, is_binary: bool, memory: &Rc<Owned>) -> Output {
        let mut info = Box::new(UnsafeCell::new(FmgrInfo::default()));
        // SAFETY: the boxed `FmgrInfo` does not move, and does not outlive the memory context.
        unsafe { pg_sys::fmgr_info_cxt(function, info.get_mut(), memory.get()) };
        Output { kind, is_binary, function: info, _memory: memory.clone() }
    }

    /// A value as the function writes it; text is in the database's encoding.
    pub fn written(&self, value: Value) -> Vec<u8> {
        if value.kind() != self.kind {
            pgrx::error!("a value of type {} is written as one of {}", value.kind(), self.kind);
        }
        let (function, datum) = (self.function.get(), value.datum());
        // SAFETY: the value is of the function's type. A send function returns a bytea, an output
        // function a C string. No reference to the `FmgrInfo` is held.
        unsafe {
            if self.is_binary {
                varlena::bytes(Datum::from(pg_sys::SendFunctionCall(function, datum))).to_vec()
            } else {
                CStr::from_ptr(pg_sys::OutputFunctionCall(function, datum)).to_bytes().to_vec()
            }
        }
    }
}

/// The OID of a type's send function.
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
