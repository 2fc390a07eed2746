//! What a session does with the records of its decisions.

pub mod destination;
pub mod log_request;
pub mod pending;
pub mod worker_slot;
pub mod write_through;
