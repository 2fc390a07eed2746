//! Models of what sessions do to shared memory at the same time. `loom` runs each of them in
//! every order, as far as it is told to, and with every value that a relaxed load may return.

#![allow(clippy::unwrap_used)]

mod limits;
mod queue;
mod words;

/// The code under test, with the atomics of `loom`.
#[allow(dead_code)]
#[path = "../../src/seqlock.rs"]
mod seqlock;

mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

/// Runs a model in all orders in which threads are interrupted at most so many times.
fn in_every_order(interruptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(model);
}
