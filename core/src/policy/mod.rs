//! Who may do what: the rules of a decision and the terms they are written in.

pub mod allowlist;
pub mod name;
pub mod rules;
pub mod scope;
pub mod verdict;
