//! Rows of applications' own tables: digests in place of values, and seals.

mod canonical;
mod cycle;
mod digest;
mod existing;
mod hash;
mod memo;
mod seal;
mod support;
mod table;
mod trigger;
mod value;
