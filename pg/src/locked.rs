//! Values in shared memory that one lock guards.

use crate::direct;
use pgrx::pg_sys::{LWLock, LWLockMode};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// What can lie in shared memory. See `shared_struct`.
///
/// # Safety
/// It has no pointers into the memory of one process, and nothing that needs dropping.
pub unsafe trait Shared {}

macro_rules! shared {
    ($($type:ty)*) => {$(
        // SAFETY: a plain number, or one that is atomic.
        unsafe impl Shared for $type {}
    )*};
}
shared! { bool u8 u16 u32 u64 i32 i64 AtomicU32 AtomicU64 AtomicI64 }

// SAFETY: the elements are.
unsafe impl<T: Shared, const COUNT: usize> Shared for [T; COUNT] {}

/// Declares structures that can lie in shared memory: all of their fields can.
#[macro_export]
macro_rules! shared_struct {
    ($(
        $(#[$about:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$about_field:meta])* $of_field:vis $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$about])*
        #[repr(C)]
        $visibility struct $name {
            $($(#[$about_field])* $of_field $field: $type,)*
        }

        // SAFETY: each field is.
        unsafe impl $crate::locked::Shared for $name where $($type: $crate::locked::Shared,)* {}
    )*};
}
pub use shared_struct;

/// A value, and slots of one kind, for whoever has the lock.
pub struct Locked<T, S> {
    lock: *mut LWLock,
    slots: *mut S,
    count: usize,
    value: UnsafeCell<T>,
}

// SAFETY: the lock keeps others from what it guards.
unsafe impl<T: Shared, S: Shared> Sync for Locked<T, S> {}

// SAFETY: the pointers are into shared memory, which lies in the same place for all processes.
unsafe impl<T: Shared, S: Shared> Shared for Locked<T, S> {}

impl<T: Shared, S: Shared> Locked<T, S> {
    /// # Safety
    /// The lock must be one of shared memory, and the slots, as many as is said, be there for
    /// nobody else, with a value each. Both must stay.
    pub unsafe fn new(lock: *mut LWLock, value: T, slots: *mut S, count: usize) -> Locked<T, S> {
        Locked { lock, slots, count, value: UnsafeCell::new(value) }
    }

    /// Others wait meanwhile, without attending to interrupts. So `body` must not wait nor fail,
    /// and not use the same lock.
    #[inline]
    pub fn with<R>(&self, body: impl FnOnce(&mut T, &mut [S]) -> R) -> R {
        // SAFETY: the lock keeps other processes away, and this one is not in here already, or it
        // would wait for itself. If `body` fails, the lock is kept until the transaction's abort
        // lets go of it.
        unsafe {
            direct::LWLockAcquire(self.lock, LWLockMode::LW_EXCLUSIVE);
            let slots = std::slice::from_raw_parts_mut(self.slots, self.count);
            let result = body(&mut *self.value.get(), slots);
            direct::LWLockRelease(self.lock);
            result
        }
    }
}
