//! Shared memory of our own: which regions there are, and when they come into being.

use pgrx::pg_sys;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A piece of shared memory, sized when the server starts.
pub struct Region {
    /// Also the name of its locks.
    pub name: &'static CStr,
    pub locks: i32,
    pub size: fn() -> usize,
    /// Fills in memory that is all zeros.
    pub initialise: unsafe fn(*mut c_void),
    /// Where it is; null where the library isn't preloaded.
    pub place: &'static AtomicPtr<c_void>,
}

static REGIONS: [&Region; 1] = [&crate::usage::ring::REGION];

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// PostgreSQL's number of AddinShmemInitLock, which its headers give no function for.
const ADDIN_LOCK: usize = 21;

/// Has the regions made. Called by the postmaster, from `_PG_init`.
pub fn install() {
    // SAFETY: only while libraries are preloaded, when there is one thread; the hooks
    // that were there are called by ours.
    unsafe {
        if pg_sys::process_shared_preload_libraries_in_progress {
            PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request);
            PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
            pg_sys::shmem_startup_hook = Some(start_up);
        }
    }
}

unsafe extern "C-unwind" fn request() {
    // SAFETY: PostgreSQL calls the hook when such requests can be made.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        for region in REGIONS {
            pg_sys::RequestAddinShmemSpace((region.size)());
            pg_sys::RequestNamedLWLockTranche(region.name.as_ptr(), region.locks);
        }
    }
}

/// Also called when the postmaster begins anew after a crash: the memory is new then.
unsafe extern "C-unwind" fn start_up() {
    // SAFETY: PostgreSQL calls the hook when there is shared memory; what was asked
    // for above is there. The lock is the one for this.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        for region in REGIONS {
            let (mut found, size) = (false, (region.size)());
            let place = pg_sys::ShmemInitStruct(region.name.as_ptr(), size, &mut found);
            if !found {
                std::ptr::write_bytes(place.cast::<u8>(), 0, size);
                (region.initialise)(place);
            }
            region.place.store(place, Relaxed);
        }
        pg_sys::LWLockRelease(lock);
    }
}
