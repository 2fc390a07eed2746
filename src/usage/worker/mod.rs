//! The background worker of a database, which stores records.

#![forbid(unsafe_code)]

pub mod cycle;
pub mod flush;
mod main;
pub mod process;
