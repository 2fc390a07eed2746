//! A table's triggers, read under its lock.

use super::{UserTable, ours};
use crate::error::{Code, Error, Result};
use crate::text;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString};

/// A copy of a trigger's definition.
pub struct Trigger {
    pub oid: Oid,
    /// In the database's encoding.
    pub name: CString,
    pub function: Oid,
    pub arguments: Vec<String>,
    /// When it is called: `tgtype` of pg_trigger.
    kind: u32,
    /// Whether the table has it because it is a partition of another table.
    is_of_the_whole: bool,
    /// Whether it is enabled in this session.
    pub fires: bool,
}

impl Trigger {
    /// # Safety
    /// The trigger must be one of an open table.
    unsafe fn of(trigger: &pg_sys::Trigger) -> Trigger {
        let count = usize::try_from(trigger.tgnargs).unwrap_or_default();
        // SAFETY: its name is a C string, and so is each of its `tgnargs` arguments.
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
        }
    }

    /// Whether it is a BEFORE ROW trigger of INSERT or UPDATE.
    pub fn is_before_writing_rows(&self) -> bool {
        let before_rows = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE;
        let writes = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE;
        self.kind & before_rows == before_rows && self.kind & writes != 0
    }
}

impl UserTable {
    pub fn triggers(&self) -> Vec<Trigger> {
        // SAFETY: the table is open, and `numtriggers` is the length of the array. PostgreSQL frees
        // it when the table is altered, so the triggers are copied.
        unsafe {
            let description = (*self.0).trigdesc;
            if description.is_null() {
                return Vec::new();
            }
            let count = usize::try_from((*description).numtriggers).unwrap_or_default();
            (0..count).map(|n| Trigger::of(&*(*description).triggers.add(n))).collect()
        }
    }

    /// The trigger with this name, if it calls this function.
    pub fn trigger(&self, name: &CStr, function: &CStr) -> Option<Trigger> {
        let function = ours(function, &[]);
        let is_it = |trigger: &Trigger| trigger.function == function && *trigger.name == *name;
        self.triggers().into_iter().find(is_it)
    }

    /// The trigger with this name, if it calls this function. An error if the table has it as a
    /// partition: such a trigger can only be changed on the partitioned table.
    pub fn own_trigger(&self, name: &CStr, function: &CStr, done: &str) -> Result<Option<Trigger>> {
        let trigger = self.trigger(name, function);
        if trigger.as_ref().is_some_and(|trigger| trigger.is_of_the_whole) {
            let table = self.name();
            let message =
                format!("table {table} is {done} as part of the table that it is a partition of");
            return Err(Error::new(Code::Conflict, message));
        }
        Ok(trigger)
    }
}

fn fires(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: reads a setting of this session.
    let is_replica = unsafe {
        pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32
    };
    let enabled = trigger.tgenabled as u8;
    enabled == b'A' || enabled == if is_replica { b'R' } else { b'O' }
}
