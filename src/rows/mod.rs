//! Rows of application tables: digests in place of values, and seals.

pub mod canonical;
mod columns;
mod cycle;
mod digest;
mod existing;
mod forms;
mod hash;
pub mod notices;
mod pages;
pub mod progress;
mod protect;
pub mod seal;
mod seals;
mod support;
mod trigger;
mod value;
pub mod verify;
