//! What a session does with the records of its decisions.

#![forbid(unsafe_code)]

pub mod destination;
pub mod log_request;
pub mod pending;
pub mod worker_slot;
pub mod write_through;
