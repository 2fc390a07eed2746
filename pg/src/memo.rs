//! What a trigger remembers from row to row of a statement.

use crate::call::Call;
use crate::error::Result;
use pgrx::pg_sys;
use std::ffi::c_void;

/// What `make` gave before in this statement, as long as it `fits` the row at hand; else it is
/// made again. It is dropped with the statement.
pub fn remembered<'a, T: 'a>(
    call: &'a Call,
    fits: impl FnOnce(&T) -> bool,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'a T> {
    // SAFETY: PostgreSQL calls triggers with a record of the function, whose `fn_extra` is
    // the function's own: null, or the place that is made below, which lives as long.
    unsafe {
        let function = (*call.frame()).flinfo;
        if (*function).fn_extra.is_null() {
            (*function).fn_extra = place::<T>((*function).fn_mcxt).cast();
        }
        let place = (*function).fn_extra.cast::<Option<T>>();
        let place = &mut *place;
        if place.as_ref().is_some_and(|made| !fits(made)) {
            *place = None;
        }
        Ok(match place {
            Some(made) => made,
            empty => empty.insert(make()?),
        })
    }
}

/// A place for one, empty, which is dropped with the memory.
fn place<T>(memory: pg_sys::MemoryContext) -> *mut Option<T> {
    // SAFETY: the callback's record lives in the memory that it is for.
    unsafe {
        let callback: *mut pg_sys::MemoryContextCallback =
            pg_sys::MemoryContextAllocZero(memory, size_of::<pg_sys::MemoryContextCallback>())
                .cast();
        let place = Box::into_raw(Box::new(None));
        (*callback).func = Some(drop_box::<Option<T>>);
        (*callback).arg = place.cast();
        pg_sys::MemoryContextRegisterResetCallback(memory, callback);
        place
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
