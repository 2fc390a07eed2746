//! keysmith's rules, free of PostgreSQL.
//!
//! What a key looks like, what is stored of it, and who may do what with it are
//! decided here, on borrowed bytes and without I/O (minting alone asks the
//! operating system for entropy). The extension crate feeds these rules from its
//! tables; tests feed them without a server, in seconds.

#![forbid(unsafe_code)]

pub mod buckets;
pub mod chain;
pub mod claims;
pub mod conninfo;
pub mod directory;
pub mod event;
pub mod gcra;
pub mod key;
pub mod parcel;
pub mod policy;
pub mod queue;
pub mod refill;
pub mod request_id;
pub mod rows;
mod seqlock;
pub mod siphash;
pub mod tally;
pub mod unknown_tally;

/// The models in `tests/models` replace these by those of `loom`.
mod sync {
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};
}
