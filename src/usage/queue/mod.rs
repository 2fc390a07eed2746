//! Where records wait in shared memory.

mod batch;
mod chain;
pub mod shared;
pub mod unknown;
pub mod wanted_days;

pub use shared::{MOST_DATABASES, Queue, REGION, queue};
