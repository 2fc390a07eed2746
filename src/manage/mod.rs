//! Management: changes of keyspaces, tenants and keys.

#![forbid(unsafe_code)]

mod access;
mod add_credits;
mod alter;
mod audit_proof;
pub mod authority;
mod bounds;
mod catalogue;
mod changes;
pub mod credits;
mod delegation;
mod doctor;
mod draft;
mod errors;
mod hashing_state;
mod isolation;
mod key;
mod keyspace;
mod level;
mod lifecycle;
mod limits;
pub mod listing;
mod locked_key;
mod metadata;
mod mint;
mod options;
mod own_rows;
mod own_rows_support;
pub mod patch;
mod profile;
pub mod progress;
mod replay;
mod revocations;
mod roles;
mod scanner;
mod scopes_used;
mod statements;
mod status;
mod tenant;
mod turns;
mod usage;
mod usage_status;
