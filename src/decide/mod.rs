//! Deciding about a key: which rows tell of it, what a request needs and costs, and the answer.

mod allowlists;
pub mod charge;
pub mod credits;
pub mod limits;
pub mod lookup;
pub mod needs;
pub mod presented;
