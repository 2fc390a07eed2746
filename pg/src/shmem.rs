//! Shared memory of our own, asked for while the library is preloaded. Where it isn't
//! there is none, and what would live in it says so.

use crate::callback;
use crate::direct::{LWLockAcquire, LWLockRelease};
use crate::error::Result;
use keysmith_core::{buckets, directory, queue};
use pgrx::pg_sys::{self, LWLock, LWLockMode};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{self, AtomicPtr, Ordering::Relaxed};

/// What may lie in memory that processes share.
///
/// # Safety
/// It must not lead to memory of one process alone, as pointers and references may.
pub unsafe trait Shareable {}

macro_rules! are_shareable {
    ($($kind:ty),*) => {$(
        // SAFETY: numbers lead nowhere.
        unsafe impl Shareable for $kind {}
    )*};
}
are_shareable!(bool, u8, u16, u32, u64, i32, i64, usize);
are_shareable!(atomic::AtomicI64, atomic::AtomicU32, atomic::AtomicU64);
// They are made of numbers.
are_shareable!(buckets::Part, directory::Slot, queue::Slot, queue::Pool, queue::Chain);

// SAFETY: so do its elements.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// Declares structures that may lie in shared memory, as all of their fields may.
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

/// A piece of shared memory: a head, and elements of one kind.
pub struct Region<H: 'static, E: 'static = u8> {
    name: &'static CStr,
    head: fn() -> Result<H>,
    count: fn() -> usize,
    has_locks: bool,
    element: fn(usize, &Locks) -> E,
    /// Where it is, in the postmaster and all its children; null without preload.
    place: AtomicPtr<Layout<H>>,
}

impl<H> Region<H> {
    /// One without elements. `head` is called at each start of the server, and when shared
    /// memory is made anew after a crash.
    pub const fn new(name: &'static CStr, head: fn() -> Result<H>) -> Region<H> {
        let place = AtomicPtr::new(null_mut());
        Region { name, head, count: || 0, has_locks: false, element: |_, _| 0, place }
    }

    /// One with so many elements.
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
    /// There is a lock for each element.
    pub const fn with_locks(mut self) -> Region<H, E> {
        self.has_locks = true;
        self
    }
}

/// The elements follow.
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

    /// Its head, where the library is preloaded.
    #[inline]
    pub fn get(&self) -> Option<&'static H> {
        // SAFETY: null, or filled in before its place was noted, and there as long as the
        // process. Nothing in it is written but by what may be written by several.
        unsafe { self.place.load(Relaxed).as_ref() }.map(|layout| &layout.head)
    }

    /// Head and elements.
    #[inline]
    pub fn whole(&self) -> Option<(&'static H, &'static [E])> {
        let layout = NonNull::new(self.place.load(Relaxed))?;
        // SAFETY: as above; as many elements as it says follow.
        unsafe {
            let first = layout.byte_add(Self::BEFORE).cast::<E>();
            let elements = std::slice::from_raw_parts(first.as_ptr(), layout.as_ref().count);
            Some((&layout.as_ref().head, elements))
        }
    }
}

/// What is asked for when the server starts, and made.
pub trait Section: Sync {
    fn name(&self) -> &'static CStr;
    fn size(&self) -> usize;
    fn locks(&self) -> usize;

    /// Takes note of the place, and fills it in if that was not done.
    ///
    /// # Safety
    /// The memory must have this size, be aligned as shared memory is, and last as long as the
    /// process; so must as many locks.
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
    /// A lock, for something that it guards.
    pub fn guard<T>(&self, n: usize, value: T) -> Guarded<T> {
        Guarded { lock: self.lock(n), value: UnsafeCell::new(value) }
    }

    /// One that lasts as long as the process.
    pub(crate) fn lock(&self, n: usize) -> *mut LWLock {
        assert!(n < self.count, "there are not as many locks");
        // SAFETY: there are as many.
        unsafe { &raw mut (*self.first.add(n)).lock }
    }
}

/// What only who has its lock may read or write. Shared memory is at the same place in all
/// processes, as they are forks of the postmaster.
pub struct Guarded<T> {
    lock: *mut LWLock,
    value: UnsafeCell<T>,
}

// SAFETY: the lock is in shared memory, and nothing else is reached without it.
unsafe impl<T: Send> Sync for Guarded<T> {}

// SAFETY: as above.
unsafe impl<T: Shareable> Shareable for Guarded<T> {}

impl<T> Guarded<T> {
    /// Waits until nobody writes, and keeps others from writing.
    pub fn read(&self) -> Reading<'_, T> {
        // SAFETY: there is such a lock. To take one can't fail.
        unsafe { LWLockAcquire(self.lock, LWLockMode::LW_SHARED) };
        Reading(self)
    }

    /// Waits until nobody reads or writes, and keeps others from both. Who has it already waits
    /// for ever.
    #[inline]
    pub fn write(&self) -> Writing<'_, T> {
        // SAFETY: as above.
        unsafe { LWLockAcquire(self.lock, LWLockMode::LW_EXCLUSIVE) };
        Writing(self)
    }

    fn release(&self) {
        if !std::thread::panicking() {
            // SAFETY: taken by who calls this. After an error the abort releases it; until then
            // no subtransaction is rolled back, see `in_subtransaction`.
            unsafe { LWLockRelease(self.lock) };
        }
    }
}

pub struct Reading<'a, T>(&'a Guarded<T>);

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: nobody writes.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        self.0.release();
    }
}

pub struct Writing<'a, T>(&'a Guarded<T>);

impl<T> Deref for Writing<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody else reads or writes.
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

/// The hooks that were there before ours.
static PREVIOUS: OnceLock<(pg_sys::shmem_request_hook_type, pg_sys::shmem_startup_hook_type)> =
    OnceLock::new();

/// To be called from _PG_init, while the library is preloaded and not otherwise.
pub fn install(regions: &'static [&'static dyn Section]) {
    REGIONS.get_or_init(|| regions);
    // SAFETY: the postmaster is alone at this time, and we take our place in the chain.
    unsafe {
        PREVIOUS.get_or_init(|| (pg_sys::shmem_request_hook, pg_sys::shmem_startup_hook));
        pg_sys::shmem_request_hook = Some(request);
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

unsafe extern "C-unwind" fn request() {
    // SAFETY: called by the postmaster at the moment for such requests.
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
    // SAFETY: called by the postmaster once shared memory is there. Nothing that needs
    // dropping is on this frame.
    unsafe {
        if let Some((_, Some(previous))) = PREVIOUS.get() {
            previous();
        }
        callback::guarded(|| regions().iter().try_for_each(|region| attach(*region)));
    }
}

fn attach(region: &dyn Section) -> Result<()> {
    /// Of AddinShmemInitLock among PostgreSQL's own locks, from lwlocknames.txt.
    const ADDIN_SHMEM_INIT: usize = 21;
    let (name, count) = (region.name().as_ptr(), region.locks());
    // SAFETY: the lock guards the making of such memory; what was requested is there.
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
