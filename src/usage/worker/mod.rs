//! The background worker of a database, which stores records.

pub mod backoff;
pub mod credit_events;
pub mod cycle;
pub mod flush;
pub mod idle;
pub mod key_ends;
pub mod ledgers;
mod main;
pub mod process;
