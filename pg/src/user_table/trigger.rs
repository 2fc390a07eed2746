//! A table's triggers, read under its lock.

use super::{UserTable, ours};
use crate::error::{Code, Error, Result};
use crate::text;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// One of our triggers.
pub struct Trigger {
    pub oid: Oid,
    pub arguments: Vec<String>,
    /// Whether the table has it as a partition of another table.
    is_of_the_whole: bool,
    /// Whether it is enabled in this session.
    pub fires: bool,
}

impl UserTable {
    pub fn triggers(&self) -> &[pg_sys::Trigger] {
        // SAFETY: the table is open; it has as many triggers as it says.
        unsafe {
            let description = (*self.0).trigdesc;
            if description.is_null() {
                return &[];
            }
            let count = usize::try_from((*description).numtriggers).unwrap_or_default();
            std::slice::from_raw_parts((*description).triggers, count)
        }
    }

    /// The trigger of that name, if it calls that function.
    pub fn trigger(&self, name: &CStr, function: &CStr) -> Option<Trigger> {
        let function = ours(function, &[]);
        // SAFETY: a name is a C string, as long as the table is open.
        let is_it = |trigger: &&pg_sys::Trigger| unsafe {
            trigger.tgfoid == function && CStr::from_ptr(trigger.tgname) == name
        };
        self.triggers().iter().find(is_it).map(|trigger| Trigger {
            oid: trigger.tgoid,
            arguments: arguments(trigger)
                .iter()
                .map(|argument| text::lossy(argument.to_bytes()))
                .collect(),
            is_of_the_whole: trigger.tgisclone,
            fires: fires(trigger),
        })
    }

    /// The same, where it may be changed: a partition has it as long as the whole table does.
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
    // SAFETY: a setting of this session.
    let is_replica = unsafe {
        pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32
    };
    let enabled = trigger.tgenabled as u8;
    enabled == b'A' || enabled == if is_replica { b'R' } else { b'O' }
}

/// A trigger's arguments, which live as long as it does.
pub fn arguments(trigger: &pg_sys::Trigger) -> Vec<&CStr> {
    let count = usize::try_from(trigger.tgnargs).unwrap_or_default();
    // SAFETY: a trigger has as many arguments as it says, each a C string.
    (0..count).map(|n| unsafe { CStr::from_ptr(*trigger.tgargs.add(n)) }).collect()
}
