//! Values that a function keeps between its calls in one statement.

use crate::context::without_panic;
use crate::error::Result;
use pgrx::pg_sys::{self, FmgrInfo};
use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

/// The kept value, of any type.
type Place = RefCell<Option<Rc<dyn Any>>>;

/// The value that `make` returned earlier in this statement, if it still `fits`; otherwise a new
/// one. It is dropped when the statement ends.
///
/// # Safety
/// The `FmgrInfo` must be that of the function of this library that is being called.
pub unsafe fn remembered<T: 'static>(
    function: *mut FmgrInfo,
    fits: impl FnOnce(&T) -> bool,
    make: impl FnOnce() -> Result<T>,
) -> Result<Rc<T>> {
    // SAFETY: `fn_extra` belongs to the called function. It is null, or the place that is made
    // here, which lives as long as the `FmgrInfo`. All functions of this library keep the same type
    // there.
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

/// An empty place, which is dropped when the memory context is reset or deleted.
fn place(memory: pg_sys::MemoryContext) -> *mut Place {
    // SAFETY: the callback record is allocated in the context that it is registered for.
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
/// The argument must be a place that was registered. It must not be used afterwards.
unsafe extern "C-unwind" fn drop_place(place: *mut c_void) {
    // SAFETY: the place was made by `Box::into_raw`. The only other pointer to it is in an
    // `FmgrInfo`, whose memory is being freed.
    without_panic(|| drop(unsafe { Box::from_raw(place.cast::<Place>()) }));
}
