//! keysmith's rules, free of PostgreSQL.
//!
//! They define what a key looks like, what is stored of it, and who may do what with it. They
//! work on borrowed bytes and do no I/O, except that minting asks the operating system for
//! entropy. The extension passes them the rows of its tables. Tests need no server.

#![forbid(unsafe_code)]

pub mod buckets;
pub mod chain;
pub mod claims;
pub mod conninfo;
pub mod counted;
pub mod directory;
pub mod event;
pub mod gcra;
pub mod http;
pub mod key;
pub mod ledger;
pub mod lists;
pub mod parcel;
pub mod policy;
pub mod queue;
pub mod refill;
pub mod request_id;
pub mod rows;
pub mod samples;
mod seqlock;
pub mod shutdown_file;
pub mod siphash;
pub mod slots;
pub mod tally;
pub mod timeline;
pub mod token;
pub mod unknown_tally;
pub mod unsettled;

/// In `tests/models`, `loom` takes the place of these.
mod sync {
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};
}
