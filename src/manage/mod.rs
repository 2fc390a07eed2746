//! Management: what changes keyspaces, tenants and keys.

mod access;
mod alter;
pub mod authority;
mod catalogue;
pub mod credits;
mod doctor;
pub mod event;
mod giver;
mod key;
mod keyspace;
mod lifecycle;
mod limits;
pub mod listing;
mod mint;
mod options;
pub mod patch;
pub mod profile;
pub mod progress;
mod replay;
mod revocations;
mod roles;
mod scanner;
mod scopes_used;
pub mod sql;
mod status;
mod tenant;
mod usage;
