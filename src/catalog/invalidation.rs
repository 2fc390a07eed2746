//! How a backend learns that what it remembers is stale.
//!
//! A row trigger on the policy tables sends a relcache invalidation, whoever
//! changed the row. It is delivered with the commit, replayed on standbys, undone
//! with a rollback, and seen by the changing transaction itself at its next
//! command. All that the callback may do is count: it runs at moments when nothing
//! may fail.
//!
//! Between a commit and the arrival of its invalidations others see what it changed
//! already. So a decision also compares the policy that it remembers with the rows that
//! it reads: see `version`.

use pgrx::pg_sys::Oid;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// How many tables there are, and the type of verdicts. Rows of the policy's, and the form of
/// each of them, make what we remember stale when they change.
pub const WATCHED: usize = 15;

static CHANGES: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);
static RELATIONS: [AtomicU32; WATCHED] = [const { AtomicU32::new(0) }; WATCHED];

/// Receives what other sessions have committed, and gives the count of changes. What is
/// read from now on is good while that count stands.
#[inline]
pub fn absorb() -> u64 {
    pg::invalidation::accept();
    changes()
}

/// How many changes of the tables this session has learned of, including those that its
/// transaction made.
#[inline]
pub fn changes() -> u64 {
    CHANGES.load(Relaxed)
}

/// Has changes to these relations counted from now on.
pub fn watch(relations: &[Oid; WATCHED]) {
    for (slot, oid) in RELATIONS.iter().zip(relations) {
        slot.store(oid.to_u32(), Relaxed);
    }
    if !REGISTERED.swap(true, Relaxed) {
        pg::invalidation::on_relation(count);
    }
}

/// Called for each invalidated relation, or for all of them with `InvalidOid`.
fn count(relation: Oid) {
    let relation = relation.to_u32();
    if relation == 0 || RELATIONS.iter().any(|watched| watched.load(Relaxed) == relation) {
        CHANGES.store(CHANGES.load(Relaxed).wrapping_add(1), Relaxed);
    }
}
