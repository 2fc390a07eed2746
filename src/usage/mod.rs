//! Usage: the records of requests.
//!
//! A decision makes a `record`. It is pending in the `session` for `log_request`. Then it goes to
//! the `queue` in shared memory, and the `worker` stores it. If the queue is full, the session writes
//! it through with its own transaction (`session::overflow`). Both write rows by `store`. Records
//! that wait outlast a `restart`. A `standby` hands its records to its primary, which knows it as a
//! `node`.

pub mod node;
pub mod queue;
pub mod record;
pub mod restart;
pub mod session;
pub mod settings;
pub mod standby;
pub mod store;
pub mod transaction;
pub mod worker;

pub use record::{Request, decided, signed_in, unknown, unrecorded};
pub use session::decisions::count;
pub use session::log_request::used;
pub use session::settled::note as settled;
