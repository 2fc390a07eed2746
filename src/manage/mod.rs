//! Management: what changes keyspaces, tenants and keys.

mod authority;
mod catalogue;
mod event;
mod key;
mod keyspace;
mod lifecycle;
mod listing;
mod mint;
mod patch;
mod replay;
mod sql;
mod tenant;
