//! The records of a session's decisions. The newest is `pending`. Then it goes to the queue, or is
//! written through before the commit, as `overflow` says.

pub mod decisions;
pub mod log_request;
pub mod overflow;
pub mod pending;
pub mod settled;
pub mod unstored;
pub mod worker_slot;
pub mod write_through;
