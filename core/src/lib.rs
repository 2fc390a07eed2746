//! keysmith's rules, free of PostgreSQL.
//!
//! What a key looks like, what is stored of it, and who may do what with it are
//! decided here, on borrowed bytes and without I/O (minting alone asks the
//! operating system for entropy). The extension crate feeds these rules from its
//! tables; tests feed them without a server, in seconds.

#![forbid(unsafe_code)]

pub mod buckets;
pub mod chain;
pub mod conninfo;
pub mod directory;
pub mod event;
pub mod gcra;
pub mod key;
pub mod parcel;
pub mod policy;
pub mod refill;
pub mod request_id;
pub mod rows;
pub mod shutdown_file;
pub mod siphash;
pub mod tally;
pub mod unknown_tally;
