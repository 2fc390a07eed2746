//! Counts the decisions of this session.

use crate::usage::queue::decisions::{self, Stripe};
use crate::usage::session::worker_slot;
use keysmith_core::policy::verdict::Reason;
use std::cell::Cell;

thread_local! {
    static STRIPE: Cell<Option<&'static Stripe>> = const { Cell::new(None) };
}

/// Counts a decision, and whether the directory lacked its key. The decisions of a database without
/// a place in the queue are not counted.
#[inline]
pub fn count(reason: Reason, is_miss: bool) {
    if let Some(stripe) = STRIPE.get().or_else(find) {
        stripe.count(reason, is_miss);
    }
}

#[cold]
fn find() -> Option<&'static Stripe> {
    let (_, place) = worker_slot::find_place()?;
    STRIPE.set(decisions::own_stripe(place));
    STRIPE.get()
}
