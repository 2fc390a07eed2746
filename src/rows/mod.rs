//! Rows of application tables: digests in place of values, and seals.

mod canonical;
mod columns;
mod cycle;
mod digest;
mod existing;
mod forms;
mod hash;
mod pages;
pub mod progress;
mod protect;
mod seal;
mod seals;
mod support;
mod trigger;
mod value;
mod verify;
