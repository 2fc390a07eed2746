//! Memory contexts for a piece of work.

use crate::context;
use crate::error::Result;
use pgrx::pg_sys::{self, MemoryContext};
use std::marker::PhantomData;

/// A memory context that is there for as long as what is borrowed.
#[derive(Clone, Copy)]
pub struct Memory<'m>(MemoryContext, PhantomData<&'m ()>);

impl Memory<'_> {
    /// # Safety
    /// The context must be neither reset nor deleted for as long as what is borrowed.
    #[inline]
    pub(crate) unsafe fn new(context: MemoryContext) -> Self {
        Memory(context, PhantomData)
    }

    #[inline]
    pub(crate) fn get(self) -> MemoryContext {
        self.0
    }
}

/// A context in the current one, for work that may run any code. After an error it is left to
/// the abort: what is to be released then may lie in it.
pub(crate) struct Scratch(MemoryContext);

impl Scratch {
    /// # Safety
    /// It must be dropped before the current context is reset or deleted.
    pub unsafe fn new() -> Scratch {
        // SAFETY: the current context is there.
        Scratch(unsafe {
            context::make(pg_sys::CurrentMemoryContext, pg_sys::ALLOCSET_DEFAULT_INITSIZE)
        })
    }

    pub fn get(&self) -> MemoryContext {
        self.0
    }

    /// Runs `body` with this as the current context.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: the context is there as long as this. After an error PostgreSQL chooses
        // another.
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
    /// Nothing may use that any more.
    pub unsafe fn reset(&self) {
        // SAFETY: as the caller promises.
        unsafe { pg_sys::MemoryContextReset(self.0) };
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, and not current, since `run` is over.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}

/// Does a piece of work for each of some things. What it allocates is freed after each.
pub fn for_each<T>(
    things: impl Iterator<Item = T>,
    mut work: impl FnMut(Memory<'_>, T) -> Result<()>,
) -> Result<()> {
    // SAFETY: dropped here. The work can keep nothing that it allocated: it is told of no
    // lifetime that is longer.
    let scratch = unsafe { Scratch::new() };
    for thing in things {
        scratch.run(|| work(Memory(scratch.get(), PhantomData), thing))?;
        // SAFETY: as above.
        unsafe { scratch.reset() };
    }
    Ok(())
}
