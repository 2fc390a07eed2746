//! Rows of usage.

pub mod batch;
pub mod direct;
pub mod partitions;
pub mod quarantine;
pub mod rows;
pub mod unknown_rows;
