//! Memory contexts that are freed after a piece of work.

use crate::context;
use crate::direct;
use crate::error::Result;
use pgrx::pg_sys::{self, MemoryContext};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// A memory context that is valid for `'m`.
#[derive(Clone, Copy)]
pub struct Memory<'m>(MemoryContext, PhantomData<&'m ()>);

impl<'m> Memory<'m> {
    /// So many bytes, which are zero.
    pub fn room(self, length: usize) -> &'m mut [u8] {
        // SAFETY: the memory is `length` bytes long and new, so nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.allocated(length), length) }
    }

    /// The start of so many bytes, which are zero and aligned for any value.
    #[inline]
    pub(crate) fn allocated(self, length: usize) -> *mut u8 {
        // MaxAllocSize.
        const MOST: usize = 0x3fff_ffff;
        const FLAGS: u32 = pg_sys::MCXT_ALLOC_NO_OOM | pg_sys::MCXT_ALLOC_ZERO;
        let length = length.max(1);
        // SAFETY: the context is valid for `'m`. The first call raises no error: it has the flag, and
        // the length is not too great. The second one raises the error for which the first one failed.
        unsafe {
            let memory = match length {
                ..=MOST => direct::MemoryContextAllocExtended(self.0, length, FLAGS as c_int),
                _ => null_mut(),
            };
            let is_there = !memory.is_null();
            (if is_there { memory } else { pg_sys::MemoryContextAllocZero(self.0, length) }).cast()
        }
    }

    /// A copy of the bytes.
    pub fn copy(self, bytes: &[u8]) -> &'m [u8] {
        let room = self.room(bytes.len());
        room.copy_from_slice(bytes);
        room
    }

    /// # Safety
    /// The context must not be reset or deleted during `'m`.
    #[inline]
    pub(crate) unsafe fn new(context: MemoryContext) -> Self {
        Memory(context, PhantomData)
    }

    #[inline]
    pub(crate) fn get(self) -> MemoryContext {
        self.0
    }
}

/// A child of the current memory context, for work that may run any code. After an error only the
/// abort deletes it, since it may contain what the abort still has to release.
pub(crate) struct Scratch(MemoryContext);

impl Scratch {
    /// # Safety
    /// It must be dropped before the current context is reset or deleted.
    pub unsafe fn new() -> Scratch {
        // SAFETY: the current memory context is valid.
        Scratch(unsafe {
            context::make(pg_sys::CurrentMemoryContext, pg_sys::ALLOCSET_DEFAULT_INITSIZE)
        })
    }

    pub fn get(&self) -> MemoryContext {
        self.0
    }

    /// Runs `body` with this as the current context.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives as long as `self`. After an error PostgreSQL switches to
        // another context.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = body();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }

    /// Frees what was allocated in it.
    ///
    /// # Safety
    /// Nothing that was allocated in it may be used afterwards.
    pub unsafe fn reset(&self) {
        // SAFETY: as the caller promises.
        unsafe {
            if !(*self.0).isReset || !(*self.0).firstchild.is_null() {
                pg_sys::MemoryContextReset(self.0);
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: created in `new`. It is not the current context, since `run` has returned.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}

/// Calls `work` for each item, and frees after each call what it has allocated.
pub fn for_each<T>(
    things: impl Iterator<Item = T>,
    mut work: impl FnMut(Memory<'_>, T) -> Result<()>,
) -> Result<()> {
    // SAFETY: dropped at the end of this function. `work` can't keep what it allocates: the
    // lifetime of its `Memory` ends with the call.
    let scratch = unsafe { Scratch::new() };
    for thing in things {
        scratch.run(|| work(Memory(scratch.get(), PhantomData), thing))?;
        // SAFETY: as above.
        unsafe { scratch.reset() };
    }
    Ok(())
}
