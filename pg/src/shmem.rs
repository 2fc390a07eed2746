//! The extension's shared memory, which is requested while the library is preloaded. Without
//! preloading it does not exist, and its accessors return `None`.

use crate::callback;
use crate::direct::{LWLockAcquire, LWLockRelease};
use crate::error::Result;
use keysmith_core::{buckets, directory, queue, samples, slots, unsettled};
use pgrx::pg_sys::{self, LWLock, LWLockMode};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{self, AtomicPtr, Ordering::Relaxed};

/// Types that may be stored in shared memory.
///
/// # Safety
/// A value must not point to the memory of a single process.
pub unsafe trait Shareable {}

macro_rules! are_shareable {
    ($($kind:ty),*) => {$(
        // SAFETY: numbers are not pointers.
        unsafe impl Shareable for $kind {}
    )*};
}
are_shareable!(bool, u8, u16, u32, u64, i32, i64, usize);
are_shareable!(atomic::AtomicI64, atomic::AtomicU32, atomic::AtomicU64);
// These structures consist of numbers.
are_shareable!(buckets::Part, directory::Slot, queue::Slot, queue::Pool, queue::Chain, slots::Held);
are_shareable!(samples::Samples, unsettled::Unsettled);

// SAFETY: its elements are shareable.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// Declares structures that may be stored in shared memory. The types of all fields must be
/// `Shareable`.
#[macro_export]
macro_rules! shareable {
    ($(
        $(#[$attribute:meta])* $visible:vis struct $name:ident {
            $($(#[$of_field:meta])* $field_visible:vis $field:ident: $kind:ty,)*
        }
    )*) => {$(
        $(#[$attribute])*
        $visible struct $name { $($(#[$of_field])* $field_visible $field: $kind,)* }

        // SAFETY: all of its fields are shareable, or this does not compile.
        unsafe impl $crate::shmem::Shareable for $name {}

        const _: () = {
            const fn must_be_shareable<T: $crate::shmem::Shareable>() {}
            $(must_be_shareable::<$kind>();)*
        };
    )*};
}
pub use shareable;

/// A region of shared memory: a head, and elements of one type.
pub struct Region<H: 'static, E: 'static = u8> {
    name: &'static CStr,
    head: fn() -> Result<H>,
    count: fn() -> usize,
    has_locks: bool,
    element: fn(usize, &Locks) -> E,
    /// The address, the same in the postmaster and all its children; null if the library is not
    /// preloaded.
    place: AtomicPtr<Layout<H>>,
}

impl<H> Region<H> {
    /// A region without elements. `head` is called at each start of the server, and when shared
    /// memory is initialized again after a crash.
    pub const fn new(name: &'static CStr, head: fn() -> Result<H>) -> Region<H> {
        let place = AtomicPtr::new(null_mut());
        Region { name, head, count: || 0, has_locks: false, element: |_, _| 0, place }
    }

    /// The region with `count` elements.
    pub const fn with_elements<E>(
        self,
        count: fn() -> usize,
        element: fn(usize, &Locks) -> E,
    ) -> Region<H, E> {
        let Region { name, head, .. } = self;
        let place = AtomicPtr::new(null_mut());
        Region { name, head, count, has_locks: false, element, place }
    }
}

impl<H, E> Region<H, E> {
    /// The region with an LWLock for each element.
    pub const fn with_locks(mut self) -> Region<H, E> {
        self.has_locks = true;
        self
    }
}

/// The beginning of a region in shared memory. The elements follow.
#[repr(C, align(64))]
struct Layout<H> {
    count: usize,
    head: H,
}

impl<H: Shareable + Sync, E: Shareable + Sync> Region<H, E> {
    const BEFORE: usize = {
        assert!(align_of::<E>() <= align_of::<Layout<H>>());
        assert!(!std::mem::needs_drop::<H>() && !std::mem::needs_drop::<E>());
        size_of::<Layout<H>>()
    };

    /// The head; `None` if the library is not preloaded.
    #[inline]
    pub fn get(&self) -> Option<&'static H> {
        // SAFETY: null, or initialized before the address was stored, and valid as long as the
        // process. The head is `Sync`: it is changed only by atomics and under locks.
        unsafe { self.place.load(Relaxed).as_ref() }.map(|layout| &layout.head)
    }

    /// The head and the elements; `None` if the library is not preloaded.
    #[inline]
    pub fn whole(&self) -> Option<(&'static H, &'static [E])> {
        let layout = NonNull::new(self.place.load(Relaxed))?;
        // SAFETY: as above; `count` elements follow the head.
        unsafe {
            let first = layout.byte_add(Self::BEFORE).cast::<E>();
            let elements = std::slice::from_raw_parts(first.as_ptr(), layout.as_ref().count);
            Some((&layout.as_ref().head, elements))
        }
    }
}

/// A section of shared memory, which is requested and initialized when the server starts.
pub trait Section: Sync {
    fn name(&self) -> &'static CStr;
    fn size(&self) -> usize;
    fn locks(&self) -> usize;

    /// Stores the address, and initializes the memory unless that was done before.
    ///
    /// # Safety
    /// The memory must have `size()` bytes, be aligned as shared memory is, and be valid as long as
    /// the process. So must `locks()` locks.
    unsafe fn attach(&self, memory: *mut u8, locks: Locks, is_filled: bool) -> Result<()>;
}

impl<H: Shareable + Sync, E: Shareable + Sync> Section for Region<H, E> {
    fn name(&self) -> &'static CStr {
        self.name
    }

    fn size(&self) -> usize {
        Self::BEFORE + (self.count)() * size_of::<E>()
    }

    fn locks(&self) -> usize {
        if self.has_locks { (self.count)() } else { 0 }
    }

    unsafe fn attach(&self, memory: *mut u8, locks: Locks, is_filled: bool) -> Result<()> {
        let layout = memory.cast::<Layout<H>>();
        if !is_filled {
            let count = (self.count)();
            let head = (self.head)()?;
            // SAFETY: as the caller promises; shared memory is aligned to 128 bytes.
            unsafe {
                layout.write(Layout { count, head });
                let first = memory.add(Self::BEFORE).cast::<E>();
                for n in 0..count {
                    first.add(n).write((self.element)(n, &locks));
                }
            }
        }
        self.place.store(layout, Relaxed);
        Ok(())
    }
}

/// The locks of a region.
pub struct Locks {
    first: *mut pg_sys::LWLockPadded,
    count: usize,
}

impl Locks {
    /// Puts a value under the lock with this number.
    pub fn guard<T>(&self, n: usize, value: T) -> Guarded<T> {
        Guarded { lock: self.lock(n), value: UnsafeCell::new(value) }
    }

    /// The lock with this number, which is valid as long as the process.
    pub(crate) fn lock(&self, n: usize) -> *mut LWLock {
        assert!(n < self.count, "there are not as many locks");
        // SAFETY: the number is within the array of locks.
        unsafe { &raw mut (*self.first.add(n)).lock }
    }
}

/// A value that is read or written only with its lock held. The pointer to the lock is valid in all
/// processes: as forks of the postmaster they have shared memory at the same address.
pub struct Guarded<T> {
    lock: *mut LWLock,
    value: UnsafeCell<T>,
}

// SAFETY: the lock is in shared memory, and the value is reached only with the lock held.
unsafe impl<T: Send> Sync for Guarded<T> {}

// SAFETY: as above.
unsafe impl<T: Shareable> Shareable for Guarded<T> {}

impl<T> Guarded<T> {
    /// Takes the lock in shared mode: waits for a writer to release it, and then keeps writers out.
    pub fn read(&self) -> Reading<'_, T> {
        // SAFETY: the lock is valid, and taking it can't fail.
        unsafe { LWLockAcquire(self.lock, LWLockMode::LW_SHARED) };
        Reading(self)
    }

    /// Takes the lock in exclusive mode: waits for readers and writers to release it, and then
    /// keeps both out. A process that holds the lock already waits for ever.
    #[inline]
    pub fn write(&self) -> Writing<'_, T> {
        // SAFETY: as above.
        unsafe { LWLockAcquire(self.lock, LWLockMode::LW_EXCLUSIVE) };
        Writing(self)
    }

    fn release(&self) {
        if !std::thread::panicking() {
            // SAFETY: the caller holds the lock. After an error the abort releases it; until then
            // no subtransaction is rolled back, see `in_subtransaction`.
            unsafe { LWLockRelease(self.lock) };
        }
    }
}

/// The value with its lock held in shared mode.
pub struct Reading<'a, T>(&'a Guarded<T>);

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held in shared mode, so no process writes.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The value with its lock held in exclusive mode.
pub struct Writing<'a, T>(&'a Guarded<T>);

impl<T> Deref for Writing<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held in exclusive mode, so no other process reads or writes.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Writing<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; `self` is borrowed for as long as the result.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Writing<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.release();
    }
}

static REGIONS: OnceLock<&'static [&'static dyn Section]> = OnceLock::new();

fn regions() -> &'static [&'static dyn Section] {
    REGIONS.get().copied().unwrap_or_default()
}

/// The hooks that were installed before ours.
static PREVIOUS: OnceLock<(pg_sys::shmem_request_hook_type, pg_sys::shmem_startup_hook_type)> =
    OnceLock::new();

/// Installs the hooks that request and initialize the regions. To be called from `_PG_init`, and
/// only while the library is preloaded.
pub fn install(regions: &'static [&'static dyn Section]) {
    REGIONS.get_or_init(|| regions);
    // SAFETY: the postmaster has no children yet. Our hooks call those that were installed before.
    unsafe {
        PREVIOUS.get_or_init(|| (pg_sys::shmem_request_hook, pg_sys::shmem_startup_hook));
        pg_sys::shmem_request_hook = Some(request);
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

unsafe extern "C-unwind" fn request() {
    // SAFETY: the postmaster calls this hook when shared memory can be requested.
    unsafe {
        if let Some((Some(previous), _)) = PREVIOUS.get() {
            previous();
        }
        for region in regions() {
            pg_sys::RequestAddinShmemSpace(region.size());
            if region.locks() > 0 {
                pg_sys::RequestNamedLWLockTranche(region.name().as_ptr(), region.locks() as i32);
            }
        }
    }
}

unsafe extern "C-unwind" fn startup() {
    // SAFETY: the postmaster calls this hook when shared memory exists. This frame holds nothing
    // that needs dropping.
    unsafe {
        if let Some((_, Some(previous))) = PREVIOUS.get() {
            previous();
        }
        callback::guarded(|| regions().iter().try_for_each(|region| attach(*region)));
    }
}

fn attach(region: &dyn Section) -> Result<()> {
    /// The number of AddinShmemInitLock in MainLWLockArray, from lwlocknames.txt.
    const ADDIN_SHMEM_INIT: usize = 21;
    let (name, count) = (region.name().as_ptr(), region.locks());
    // SAFETY: AddinShmemInitLock guards ShmemInitStruct. `request` has requested this memory and
    // these locks.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT)).lock;
        pg_sys::LWLockAcquire(lock, LWLockMode::LW_EXCLUSIVE);
        let mut is_filled = false;
        let memory = pg_sys::ShmemInitStruct(name, region.size(), &mut is_filled).cast();
        let first = if count > 0 { pg_sys::GetNamedLWLockTranche(name) } else { null_mut() };
        let outcome = region.attach(memory, Locks { first, count }, is_filled);
        pg_sys::LWLockRelease(lock);
        outcome
    }
}
