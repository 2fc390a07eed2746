//! An end of the server: what outlasts it, and what it may have cost.
//!
//! `shutdown` writes what waits to files, `startup` looks at what the incarnation before left, and
//! a worker stores the `backlog`. `losses` and `incarnations` say what was lost.

pub mod backlog;
pub mod files;
pub mod incarnations;
pub mod losses;
mod predecessor;
mod shutdown;
pub mod startup;
