//! Deciding: the way of a key from a call to its verdict.

mod allowlists;
mod authenticate;
mod client_ip;
mod credits;
mod decision;
mod explain;
mod limits;
mod lookup;
mod needs;
mod toll;
mod verdict;
mod verify;
