//! Memory of PostgreSQL's that what is made there does not outlive.

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

/// Does a piece of work for each of some things. What it allocates is freed after each.
pub fn for_each<T>(
    things: impl Iterator<Item = T>,
    mut work: impl FnMut(Memory<'_>, T) -> Result<()>,
) -> Result<()> {
    // SAFETY: the context is made here, and deleted here; after an error, with the one around it.
    // The work keeps nothing of it: it is told of no lifetime that is longer.
    unsafe {
        let around = pg_sys::CurrentMemoryContext;
        let scratch = pg_sys::AllocSetContextCreateInternal(
            around,
            c"keysmith".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let mut result = Ok(());
        for thing in things {
            pg_sys::MemoryContextSwitchTo(scratch);
            result = work(Memory(scratch, PhantomData), thing);
            pg_sys::MemoryContextSwitchTo(around);
            if result.is_err() {
                break;
            }
            pg_sys::MemoryContextReset(scratch);
        }
        pg_sys::MemoryContextDelete(scratch);
        result
    }
}
