//! Deciding: the way of a key from a call to its verdict.

mod allowlists;
mod authenticate;
mod client_ip;
mod decision;
mod explain;
mod lookup;
mod needs;
mod verdict;
mod verify;

pub use verdict::{Holder, Verdict};
