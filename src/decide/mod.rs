//! Deciding: the way of a key from a call to its verdict.

mod lookup;
mod verdict;
mod verify;
