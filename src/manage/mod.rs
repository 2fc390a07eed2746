//! Management: what changes keyspaces, tenants and keys.

mod alter;
pub mod authority;
mod catalogue;
mod event;
mod key;
mod keyspace;
mod lifecycle;
mod listing;
mod mint;
mod options;
mod patch;
mod replay;
pub mod sql;
mod tenant;
