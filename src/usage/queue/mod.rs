//! Where records wait in shared memory.

pub mod decisions;
pub mod shared;
pub mod unknown;
pub mod wanted_days;

pub use shared::{MOST_DATABASES, Queue, REGION, queue};
