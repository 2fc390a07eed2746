//! The rows of usage, and how they are written.

pub mod bulk_insert;
pub mod counted;
pub mod deltas;
pub mod insert;
pub mod partitions;
pub mod quarantine;
pub mod rows;
pub mod settled;
pub mod totalled_tags;
pub mod unknown_rows;
