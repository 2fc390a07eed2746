//! Where records wait in shared memory.

pub mod ring;
pub mod unknown;
pub mod wanted;
