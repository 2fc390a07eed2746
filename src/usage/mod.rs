//! Usage: what becomes of each request's record.
//!
//! A decision makes a `record`. The `session` keeps it back for `log_request`, and then hands
//! it to the `queue` in shared memory, whence the `worker` stores it, or writes it through
//! with its own transaction. `store` is how both write rows. What waits outlasts a `restart`,
//! and a `standby` hands it to its primary.

pub mod queue;
pub mod record;
pub mod restart;
pub mod session;
pub mod settings;
pub mod standby;
pub mod store;
pub mod transaction;
pub mod worker;

pub use record::{Request, decided, unknown};
