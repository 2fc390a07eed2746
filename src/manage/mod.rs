//! Management: what changes keyspaces, tenants and keys.

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
mod doctor;
mod draft;
mod errors;
mod field;
mod giver;
mod hashing_state;
mod isolation;
mod json;
mod key;
mod keyspace;
mod lifecycle;
mod limits;
pub mod listing;
mod locked_key;
mod metadata;
mod mint;
mod options;
mod own_rows;
mod own_rows_support;
mod patch;
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
