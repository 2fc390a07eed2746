//! What outlasts an end of the server, and what an end has cost.

pub mod file;
pub mod incarnations;
pub mod shutdown_file;
pub mod standby_backlog;
pub mod start;
pub mod traces;
