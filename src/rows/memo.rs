//! What a function remembers from row to row of a statement.

use crate::call::Call;
use crate::error::Result;
use pgrx::pg_sys;
use std::ffi::c_void;

/// What `make` gave at the first call of this statement. It is dropped with it.
pub fn remembered<'a, T: 'a>(call: &'a Call, make: impl FnOnce() -> Result<T>) -> Result<&'a T> {
    // SAFETY: PostgreSQL calls triggers and functions of expressions with a record of the
    // function, whose `fn_extra` is the function's own: null, or what is put there below.
    unsafe {
        let function = (*call.frame()).flinfo;
        if (*function).fn_extra.is_null() {
            let context = (*function).fn_mcxt;
            let callback: *mut pg_sys::MemoryContextCallback =
                pg_sys::MemoryContextAllocZero(context, size_of::<pg_sys::MemoryContextCallback>())
                    .cast();
            let made = Box::into_raw(Box::new(make()?));
            (*callback).func = Some(drop_box::<T>);
            (*callback).arg = made.cast();
            pg_sys::MemoryContextRegisterResetCallback(context, callback);
            (*function).fn_extra = made.cast();
        }
        Ok(&*(*function).fn_extra.cast::<T>())
    }
}

/// # Safety
/// Called once, by PostgreSQL, with what was registered.
unsafe extern "C-unwind" fn drop_box<T>(made: *mut c_void) {
    // SAFETY: it is a box's, and nobody has it any more.
    drop(unsafe { Box::from_raw(made.cast::<T>()) });
}

/// The memory that lives as long as what is remembered.
pub fn context(call: &Call) -> pg_sys::MemoryContext {
    // SAFETY: as above.
    unsafe { (*(*call.frame()).flinfo).fn_mcxt }
}
