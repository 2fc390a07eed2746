//! How a backend learns that what it has cached is stale.
//!
//! A row trigger on the policy tables sends a relcache invalidation for every change of a row.
//! PostgreSQL delivers it with the commit, replays it on standbys, discards it with a rollback, and
//! shows it to the changing transaction at its next command. The callback only counts: it runs at
//! moments when nothing may fail.
//!
//! Between a commit and the arrival of its invalidations, other sessions already see the changed
//! rows. So a decision also compares its cached policy with the rows that it reads: see `version`.

use pgrx::pg_sys::Oid;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The number of watched relations: our tables, and the types of verdicts and responses. Our caches are stale
/// after a change of a policy row, or of the definition of one of these relations.
pub const WATCHED: usize = 20;

static CHANGES: AtomicU64 = AtomicU64::new(0);
static CHANGES_OF_FORMS: AtomicU64 = AtomicU64::new(0);
static CHANGES_OF_ROLES: AtomicU64 = AtomicU64::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);
static RELATIONS: [AtomicU32; WATCHED] = [const { AtomicU32::new(0) }; WATCHED];

/// Processes the invalidations that have arrived, and returns the count of changes. What is read
/// from now on is valid as long as the count is the same.
#[inline]
pub fn absorb() -> u64 {
    pg::invalidation::accept();
    changes()
}

/// How many invalidations of the watched relations this session has processed, including those of
/// its own transaction.
#[inline]
pub fn changes() -> u64 {
    CHANGES.load(Relaxed)
}

/// How often this session has processed that roles or memberships of roles were changed.
#[inline]
pub fn changes_of_roles() -> u64 {
    CHANGES_OF_ROLES.load(Relaxed)
}

/// How often this session has processed that some table, type or schema was changed.
#[inline]
pub fn changes_of_forms() -> u64 {
    CHANGES_OF_FORMS.load(Relaxed)
}

/// Counts invalidations of these relations, and the others, from now on.
pub fn watch(relations: &[Oid; WATCHED]) {
    for (slot, oid) in RELATIONS.iter().zip(relations) {
        slot.store(oid.to_u32(), Relaxed);
    }
    if !REGISTERED.swap(true, Relaxed) {
        pg::invalidation::on_relation(count);
        pg::invalidation::on_role(count_roles);
        pg::invalidation::on_type(count_forms);
    }
}

/// Called with each invalidated relation, or with `InvalidOid` for all relations.
fn count(relation: Oid) {
    count_forms();
    let relation = relation.to_u32();
    if relation == 0 || RELATIONS.iter().any(|watched| watched.load(Relaxed) == relation) {
        CHANGES.store(CHANGES.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

fn count_forms() {
    CHANGES_OF_FORMS.store(CHANGES_OF_FORMS.load(Relaxed).wrapping_add(1), Relaxed);
}

fn count_roles() {
    CHANGES_OF_ROLES.store(CHANGES_OF_ROLES.load(Relaxed).wrapping_add(1), Relaxed);
}
