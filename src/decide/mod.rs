//! Deciding: the way of a key from a call to its verdict.

mod allowlists;
mod authenticate;
mod client_ip;
pub mod decision;
mod explain;
pub mod lookup;
pub mod needs;
pub mod verdict;
mod verify;
