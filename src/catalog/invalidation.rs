//! How a backend learns that what it remembers is stale.
//!
//! A row trigger on the policy tables sends a relcache invalidation, whoever
//! changed the row. It is delivered with the commit, replayed on standbys, undone
//! with a rollback, and seen by the changing transaction itself at its next
//! command. All that the callback may do is set a mark: it runs at moments when
//! nothing may fail.

use super::tables::{self, Tables};
use crate::call::{Call, sql_functions};
use crate::error::{Code, Error, Result};
use pgrx::pg_sys::{self, Datum, Oid};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

sql_functions! {
    keysmith_policy_changed => policy_changed;
}

static STALE: AtomicBool = AtomicBool::new(false);
static REGISTERED: AtomicBool = AtomicBool::new(false);
static WATCHED: [AtomicU32; tables::WATCHED] = [const { AtomicU32::new(0) }; tables::WATCHED];

/// Receives what other sessions have committed. True if what is remembered must be
/// forgotten; the mark is cleared, so that a change from now on sets it again.
#[inline]
pub fn absorb() -> bool {
    // SAFETY: we are inside a transaction and hold nothing that could go away.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    STALE.swap(false, Relaxed)
}

/// Has the mark set by changes to these tables from now on.
pub fn watch(tables: &Tables) {
    for (slot, oid) in WATCHED.iter().zip(tables.watched()) {
        slot.store(oid.to_u32(), Relaxed);
    }
    if !REGISTERED.swap(true, Relaxed) {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(mark), Datum::null()) };
    }
}

/// Called for each invalidated relation, or for all of them with `InvalidOid`.
unsafe extern "C-unwind" fn mark(_argument: Datum, relation: Oid) {
    let relation = relation.to_u32();
    if relation == 0 || WATCHED.iter().any(|watched| watched.load(Relaxed) == relation) {
        STALE.store(true, Relaxed);
    }
}

/// The trigger on the policy tables.
fn policy_changed(call: &Call) -> Result<Option<Datum>> {
    let context = {
        // SAFETY: the frame is valid, and its context is null or a node.
        let node = unsafe { (*call.frame()).context };
        // SAFETY: as above; the tag tells whether the node is a trigger's.
        let is_trigger =
            !node.is_null() && unsafe { (*node).type_ } == pg_sys::NodeTag::T_TriggerData;
        is_trigger.then_some(node.cast::<pg_sys::TriggerData>())
    };
    let Some(trigger) = context else {
        return Err(Error::new(
            Code::InvalidArgument,
            "policy_changed can be called by triggers alone",
        ));
    };
    // SAFETY: the trigger manager fills the structure in.
    unsafe {
        let trigger = &*trigger;
        pg_sys::CacheInvalidateRelcache(trigger.tg_relation);
        // What an AFTER trigger returns is ignored, but must not be null.
        Ok(Some(Datum::from(trigger.tg_trigtuple)))
    }
}
