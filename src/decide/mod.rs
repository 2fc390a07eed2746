//! Deciding: the way of a key from a call to its verdict.

mod allowlists;
mod authenticate;
mod client_ip;
mod credits;
pub mod decision;
mod explain;
mod limits;
pub mod lookup;
pub mod needs;
mod pre_request;
pub mod pre_request_settings;
mod toll;
pub mod verdict;
mod verify;

pub use verdict::{Holder, Verdict};
