//! Types, and their output and send functions.

use crate::context::Owned;
use crate::relation::{Description, name_bytes};
use crate::settings::set_while;
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
    let read = || unsafe {
        let flags = flags as pg_sys::bits16;
        let name = pg_sys::format_type_extended(kind, modifier.unwrap_or(-1), flags);
        CStr::from_ptr(name).to_bytes().to_vec()
    };
    // SAFETY: reads a setting.
    if unsafe { pg_sys::quote_all_identifiers } {
        return set_while(&[(c"quote_all_identifiers", c"off")], read);
    }
    read()
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

/// The type that the values of an array, a range or a multirange are made of.
pub fn inner(kind: Oid) -> Option<Oid> {
    must_be_in_progress();
    // SAFETY: syscache look-ups, which return InvalidOid for types of other kinds.
    let (subtype, range) =
        unsafe { (pg_sys::get_range_subtype(kind), pg_sys::get_multirange_range(kind)) };
    let known = |oid: Oid| (oid != Oid::INVALID).then_some(oid);
    element(kind).or(known(subtype)).or(known(range))
}

/// The names and types of a composite type's attributes.
pub fn attributes(kind: Oid) -> Vec<(Vec<u8>, Oid)> {
    must_be_in_progress();
    // SAFETY: PostgreSQL raises an error if the type is not composite. The description is counted,
    // and read before it is released.
    unsafe {
        let description = pg_sys::lookup_rowtype_tupdesc(kind, -1);
        let attributes = Description::new(description).columns();
        let attributes =
            attributes.map(|attribute| (name_bytes(attribute).to_vec(), attribute.atttypid));
        let attributes = attributes.collect();
        if (*description).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(description);
        }
        attributes
    }
}

pub fn is_composite(kind: Oid) -> bool {
    must_be_in_progress();
    // SAFETY: a syscache look-up, which returns 0 if there is no such type.
    (unsafe { pg_sys::get_typtype(kind) }) as u8 == pg_sys::TYPTYPE_COMPOSITE
}

/// The binary form of a type whose values have a fixed length, written without its send function.
#[derive(Clone, Copy)]
pub struct Fixed {
    kind: Oid,
    length: usize,
}

const UUID_LEN: usize = 16;

impl Fixed {
    /// The form of a built-in type, or of a domain over one.
    pub fn of(kind: Oid) -> Option<Fixed> {
        let length = match base(kind) {
            pg_sys::BOOLOID | pg_sys::CHAROID => 1,
            pg_sys::INT2OID => 2,
            pg_sys::INT4OID | pg_sys::OIDOID | pg_sys::FLOAT4OID | pg_sys::DATEOID => 4,
            pg_sys::INT8OID
            | pg_sys::FLOAT8OID
            | pg_sys::TIMEOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::MONEYOID => 8,
            pg_sys::UUIDOID => UUID_LEN,
            _ => return None,
        };
        Some(Fixed { kind, length })
    }

    /// Passes a value on, as the type's send function writes it: numbers with the most significant
    /// byte first.
    #[inline]
    pub fn with<T>(self, value: Value, to: impl FnOnce(&[u8]) -> T) -> T {
        if value.kind() != self.kind {
            mixed_up(value.kind(), self.kind);
        }
        if self.length == UUID_LEN {
            // SAFETY: a uuid is passed as a pointer to its bytes.
            return to(unsafe { &*value.datum().cast_mut_ptr::<[u8; UUID_LEN]>() });
        }
        let bytes = (value.datum().value() as u64).to_be_bytes();
        to(bytes.get(bytes.len() - self.length..).unwrap_or_default())
    }
}

#[cold]
fn mixed_up(kind: Oid, expected: Oid) -> ! {
    pgrx::error!("a value of type {kind} is written as one of {expected}")
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
            mixed_up(value.kind(), self.kind);
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

/// Whether a type has a send function. An array's calls that of its elements.
pub fn has_binary_output(kind: Oid) -> bool {
    must_be_in_progress();
    send_function(base(kind)).is_some()
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
