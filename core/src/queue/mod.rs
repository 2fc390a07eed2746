//! The records that wait in shared memory: slots of one size, and for each database a chain of
//! slots, in the order in which the records came. All of it is behind one lock, which the
//! callers hold.

mod batch;
mod chain;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Waiting, Wanted};
pub use chain::{Chain, Pool, Run, Slot};
