//! Triggers of a table.

use crate::relation::RelationView;
use crate::text;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString};

/// A trigger as it is now.
pub struct Trigger {
    pub oid: Oid,
    /// In the database's encoding.
    pub name: CString,
    pub function: Oid,
    pub arguments: Vec<String>,
    /// When it is called, as pg_trigger has it.
    kind: u32,
    /// Whether the table has it as a partition of another table.
    pub is_of_the_whole: bool,
    /// Whether it is enabled in this session.
    pub fires: bool,
    /// The mode in which it is enabled, as pg_trigger has it.
    enabled: u8,
}

impl Trigger {
    /// # Safety
    /// The trigger must be one of an open table.
    unsafe fn of(trigger: &pg_sys::Trigger) -> Trigger {
        let count = usize::try_from(trigger.tgnargs).unwrap_or_default();
        // SAFETY: its name is a C string, and so is each of its arguments, as many as it says.
        let (name, arguments) = unsafe {
            let argument = |n| CStr::from_ptr(*trigger.tgargs.add(n)).to_bytes();
            let arguments = (0..count).map(|n| text::lossy(argument(n)));
            (CStr::from_ptr(trigger.tgname).to_owned(), arguments.collect())
        };
        Trigger {
            oid: trigger.tgoid,
            name,
            function: trigger.tgfoid,
            arguments,
            kind: u32::from(trigger.tgtype as u16),
            is_of_the_whole: trigger.tgisclone,
            fires: fires(trigger),
            enabled: trigger.tgenabled as u8,
        }
    }

    /// Whether it is enabled in this mode.
    pub fn is_enabled(&self, mode: FiresOn) -> bool {
        self.enabled == mode as u8
    }

    /// Whether inserts call it.
    pub fn is_for_inserts(&self) -> bool {
        self.kind & pg_sys::TRIGGER_TYPE_INSERT != 0
    }

    /// Whether it is called for each inserted row.
    pub fn is_for_inserted_rows(&self) -> bool {
        self.is_for_inserts() && self.kind & pg_sys::TRIGGER_TYPE_ROW != 0
    }

    /// Whether it is called for each row, before that is inserted or updated.
    pub fn is_before_writing_rows(&self) -> bool {
        let before_rows = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE;
        let writes = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE;
        self.kind & before_rows == before_rows && self.kind & writes != 0
    }
}

impl RelationView<'_> {
    /// The table's triggers. PostgreSQL frees its own description of them when it receives an
    /// invalidation, so this copies them.
    pub fn triggers(self) -> Vec<Trigger> {
        // SAFETY: the table is open; it has as many triggers as it says.
        unsafe {
            let Some(triggers) = (*self.relation()).trigdesc.as_ref() else { return Vec::new() };
            let count = usize::try_from(triggers.numtriggers).unwrap_or_default();
            (0..count).map(|n| Trigger::of(&*triggers.triggers.add(n))).collect()
        }
    }
}

fn fires(trigger: &pg_sys::Trigger) -> bool {
    let enabled = trigger.tgenabled as u8;
    enabled == b'A' || enabled == if is_replica() { b'R' } else { b'O' }
}

/// Whether `session_replication_role` is `replica`, so that usual triggers don't fire.
pub fn is_replica() -> bool {
    // SAFETY: a setting of this session.
    unsafe { pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32 }
}

/// When a trigger fires, as `ALTER TABLE … ENABLE TRIGGER` sets it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FiresOn {
    /// Unless the session applies changes of another server.
    Origin = b'O' as isize,
    /// Only if it does.
    Replica = b'R' as isize,
    Always = b'A' as isize,
}
