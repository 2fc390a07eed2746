//! Values in shared memory that one lock guards.

use crate::direct;
use crate::error::Result;
use crate::shmem::{Locks, Section, Shareable};
use pgrx::pg_sys::{LWLock, LWLockMode};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::mem::needs_drop;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A value and an array of slots, which only the holder of the lock can use.
pub struct Locked<T, S> {
    lock: *mut LWLock,
    slots: *mut S,
    count: usize,
    value: UnsafeCell<T>,
}

// SAFETY: the value and the slots are reached by `with` only, which holds the lock.
unsafe impl<T: Shareable, S: Shareable> Sync for Locked<T, S> {}

// SAFETY: the pointers lead into shared memory, which has the same address in all processes.
unsafe impl<T: Shareable, S: Shareable> Shareable for Locked<T, S> {}

impl<T: Shareable, S: Shareable> Locked<T, S> {
    /// Runs `body` with the lock held. Other processes wait meanwhile, and process no interrupts.
    /// So `body` must not wait, must not fail, and must not take the same lock.
    #[inline]
    pub fn with<R>(&self, body: impl FnOnce(&mut T, &mut [S]) -> R) -> R {
        // SAFETY: the lock excludes other processes. This process does not hold it already, or it
        // would wait for itself. If `body` fails, the lock is held until the abort of the
        // transaction releases it.
        unsafe {
            direct::LWLockAcquire(self.lock, LWLockMode::LW_EXCLUSIVE);
            let slots = std::slice::from_raw_parts_mut(self.slots, self.count);
            let result = body(&mut *self.value.get(), slots);
            direct::LWLockRelease(self.lock);
            result
        }
    }
}

/// A region of shared memory: a structure that contains a `Locked`, followed by the slots.
pub struct LockedRegion<H: 'static, T, S> {
    name: &'static CStr,
    state: fn() -> T,
    slots: fn() -> usize,
    slot: fn() -> S,
    whole: fn(Locked<T, S>) -> H,
    begin: OnceLock<fn(&'static H)>,
    /// The address, the same in the postmaster and all its children; null if the library is not
    /// preloaded.
    place: AtomicPtr<H>,
}

impl<H, T, S> LockedRegion<H, T, S> {
    /// The functions are called at each start of the server, and when shared memory is initialized
    /// again after a crash.
    pub const fn new(
        name: &'static CStr,
        state: fn() -> T,
        slots: fn() -> usize,
        slot: fn() -> S,
        whole: fn(Locked<T, S>) -> H,
    ) -> LockedRegion<H, T, S> {
        let place = AtomicPtr::new(null_mut());
        LockedRegion { name, state, slots, slot, whole, begin: OnceLock::new(), place }
    }

    /// Registers `begin`, which is called each time after the region was initialized. To be called
    /// from `_PG_init`.
    pub fn when_made(&self, begin: fn(&'static H)) {
        self.begin.get_or_init(|| begin);
    }
}

impl<H: Shareable + Sync, T: Shareable, S: Shareable> LockedRegion<H, T, S> {
    const BEFORE: usize = {
        assert!(align_of::<H>() <= 64 && align_of::<S>() <= 64);
        assert!(!needs_drop::<H>() && !needs_drop::<S>());
        size_of::<H>().next_multiple_of(64)
    };

    /// The structure; `None` if the library is not preloaded.
    #[inline]
    pub fn get(&self) -> Option<&'static H> {
        // SAFETY: null, or initialized before the address was stored, and valid as long as the
        // process. The structure is `Sync`: it is changed only by atomics and under locks.
        unsafe { self.place.load(Relaxed).as_ref() }
    }
}

impl<H: Shareable + Sync, T: Shareable, S: Shareable> Section for LockedRegion<H, T, S> {
    fn name(&self) -> &'static CStr {
        self.name
    }

    fn size(&self) -> usize {
        Self::BEFORE + (self.slots)() * size_of::<S>()
    }

    fn locks(&self) -> usize {
        1
    }

    unsafe fn attach(&self, memory: *mut u8, locks: Locks, is_filled: bool) -> Result<()> {
        let whole = memory.cast::<H>();
        let count = (self.slots)();
        if !is_filled {
            // SAFETY: as the caller promises; shared memory is aligned to 128 bytes. Only this
            // `Locked` has a pointer to the slots.
            unsafe {
                let slots = memory.add(Self::BEFORE).cast::<S>();
                for n in 0..count {
                    slots.add(n).write((self.slot)());
                }
                let value = UnsafeCell::new((self.state)());
                whole.write((self.whole)(Locked { lock: locks.lock(0), slots, count, value }));
            }
        }
        self.place.store(whole, Relaxed);
        if !is_filled && let (Some(begin), Some(made)) = (self.begin.get(), self.get()) {
            begin(made);
        }
        Ok(())
    }
}
