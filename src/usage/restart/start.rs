//! The start of the server: the queue is made, and gets what the server kept when it stopped.

use crate::usage::queue::ring;
use crate::usage::restart::{shutdown_file, traces};
use pg::error::Result;
use pg::server;
use pg::shmem::Untyped;

pub static REGION: Untyped =
    Untyped { name: ring::NAME, locks: || 1, size: ring::size, initialise, place: &ring::PLACE };

/// # Safety
/// There must be that much fresh memory, and the lock. Only in the postmaster.
unsafe fn initialise(memory: *mut u8) -> Result<()> {
    let is_standby = server::data_directory().join("standby.signal").exists();
    // SAFETY: as the caller promises.
    let ring = unsafe { ring::initialise(memory, server::was_shut_down(), is_standby) };
    traces::begin(ring);
    shutdown_file::take_up(ring);
    Ok(())
}
