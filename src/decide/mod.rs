//! Decisions about keys: finding the rows of a key, what a request needs and costs, and the
//! outcome.

mod allowlists;
pub mod charge;
pub mod credits;
pub mod limits;
pub mod lookup;
pub mod needs;
pub mod presented;
mod status;
pub mod token;
