//! The background worker of a database, which stores records.

pub mod backoff;
pub mod cycle;
pub mod flush;
mod main;
pub mod process;
