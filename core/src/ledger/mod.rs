//! The ledger of a table: sums of keyed hashes of its rows, which show rows that were deleted or put
//! back.
//!
//! Each transaction appends one difference: the sum of the rows that it inserted minus the sum of those
//! that it removed. Blocks add up what was appended, and are chained. The sum of the rows of the table
//! must be that of the last block and of the differences since. `docs/ledger-format.md` has the exact
//! bytes, and what they prove.

pub mod block;
mod bytes;
pub mod closing;
pub mod difference;
pub mod incarnation;
pub mod keys;
pub mod open;
pub mod problem;
pub mod range;
pub mod row;
pub mod settings;
pub mod snapshot;
pub mod stored_range;
pub mod sum;
pub mod sums;
pub mod verify;

#[cfg(test)]
mod vectors;
#[cfg(test)]
mod world;
