//! The start of the server: the queue is made, and gets what the server kept when it stopped.

use crate::usage::queue::shared;
use crate::usage::restart::{shutdown_file, traces};
use pg::error::Result;
use pg::server;
use pg::shmem::Untyped;

pub static REGION: Untyped = Untyped {
    name: shared::NAME,
    locks: || 1,
    size: shared::size,
    initialise,
    place: &shared::PLACE,
};

/// # Safety
/// There must be that much fresh memory, and the lock. Only in the postmaster.
unsafe fn initialise(memory: *mut u8) -> Result<()> {
    let is_standby = server::data_directory().join("standby.signal").exists();
    // SAFETY: as the caller promises.
    let queue = unsafe { shared::initialise(memory, server::was_shut_down(), is_standby) };
    traces::begin(queue);
    shutdown_file::take_up(queue);
    Ok(())
}
