//! Shared memory of our own, asked for while the library is preloaded. Where it isn't
//! there is none, and what would live in it says so.

use crate::callback;
use crate::error::Result;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A piece of shared memory, with locks of its own.
pub struct Region {
    pub name: &'static CStr,
    pub size: fn() -> usize,
    pub locks: fn() -> usize,
    /// Fills in fresh memory, `size` bytes of it. It is called at each start of the
    /// server, and when shared memory is made anew after a crash.
    pub initialise: unsafe fn(*mut u8) -> Result<()>,
    pub place: &'static Place,
}

/// Where a region is, in the postmaster and all its children; null without preload.
pub struct Place {
    pub memory: AtomicPtr<u8>,
    pub locks: AtomicPtr<pg_sys::LWLockPadded>,
}

impl Place {
    pub const fn unknown() -> Place {
        Place { memory: AtomicPtr::new(null_mut()), locks: AtomicPtr::new(null_mut()) }
    }
}

static REGIONS: OnceLock<&'static [&'static Region]> = OnceLock::new();

fn regions() -> &'static [&'static Region] {
    REGIONS.get().copied().unwrap_or_default()
}

/// The hooks that were there before ours.
static PREVIOUS: OnceLock<(pg_sys::shmem_request_hook_type, pg_sys::shmem_startup_hook_type)> =
    OnceLock::new();

/// To be called from _PG_init, while the library is preloaded and not otherwise.
pub fn install(regions: &'static [&'static Region]) {
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
            pg_sys::RequestAddinShmemSpace((region.size)());
            if (region.locks)() > 0 {
                pg_sys::RequestNamedLWLockTranche(region.name.as_ptr(), (region.locks)() as i32);
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
        callback::guarded(|| regions().iter().try_for_each(|region| attach(region)));
    }
}

fn attach(region: &Region) -> Result<()> {
    /// Of AddinShmemInitLock among PostgreSQL's own locks, from lwlocknames.txt.
    const ADDIN_SHMEM_INIT: usize = 21;
    // SAFETY: the lock guards the making of such memory; what was requested is there.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let memory =
            pg_sys::ShmemInitStruct(region.name.as_ptr(), (region.size)(), &mut found).cast();
        let outcome = if found { Ok(()) } else { (region.initialise)(memory) };
        region.place.memory.store(memory, Relaxed);
        if (region.locks)() > 0 {
            let locks = pg_sys::GetNamedLWLockTranche(region.name.as_ptr());
            region.place.locks.store(locks, Relaxed);
        }
        pg_sys::LWLockRelease(lock);
        outcome
    }
}

/// See `direct`.
pub use crate::direct as lwlock;
