//! The start of the server: the queue, when it is made, gets what the server kept when it stopped.

use crate::usage::queue::{Queue, REGION};
use crate::usage::restart::{shutdown_file, traces};

/// To be called from `_PG_init`, while the library is preloaded.
pub fn install() {
    REGION.when_made(begin);
}

fn begin(queue: &'static Queue) {
    traces::begin(queue);
    shutdown_file::take_up(queue);
}
