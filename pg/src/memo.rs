//! What a function remembers from call to call of a statement.

use crate::context::without_panic;
use crate::error::Result;
use pgrx::pg_sys::{self, FmgrInfo};
use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

/// What is remembered, of whatever type.
type Place = RefCell<Option<Rc<dyn Any>>>;

/// What `make` gave before in this statement, as long as it `fits` the call at hand; else it is
/// made again. It is dropped with the statement.
///
/// # Safety
/// The record must be the one of a function of this library that is being called.
pub unsafe fn remembered<T: 'static>(
    function: *mut FmgrInfo,
    fits: impl FnOnce(&T) -> bool,
    make: impl FnOnce() -> Result<T>,
) -> Result<Rc<T>> {
    // SAFETY: the record's `fn_extra` is the function's own: null, or the place that is made
    // here, which lives as long. Places of this library's functions are all of one type.
    let place = unsafe {
        if (*function).fn_extra.is_null() {
            (*function).fn_extra = place((*function).fn_mcxt).cast();
        }
        &*(*function).fn_extra.cast::<Place>()
    };
    let before = place.borrow().clone().and_then(|made| made.downcast::<T>().ok());
    if let Some(made) = before.filter(|made| fits(made)) {
        return Ok(made);
    }
    let made = Rc::new(make()?);
    drop(place.replace(Some(made.clone())));
    Ok(made)
}

/// A place, empty, which is dropped with the memory.
fn place(memory: pg_sys::MemoryContext) -> *mut Place {
    // SAFETY: the callback's record lives in the memory that it is for.
    unsafe {
        let callback: *mut pg_sys::MemoryContextCallback =
            pg_sys::MemoryContextAllocZero(memory, size_of::<pg_sys::MemoryContextCallback>())
                .cast();
        let place: *mut Place = Box::into_raw(Box::default());
        (*callback).func = Some(drop_place);
        (*callback).arg = place.cast();
        pg_sys::MemoryContextRegisterResetCallback(memory, callback);
        place
    }
}

/// # Safety
/// Called once, by PostgreSQL, with what was registered.
unsafe extern "C-unwind" fn drop_place(place: *mut c_void) {
    // SAFETY: it is a box's, and nobody has it any more.
    without_panic(|| drop(unsafe { Box::from_raw(place.cast::<Place>()) }));
}
