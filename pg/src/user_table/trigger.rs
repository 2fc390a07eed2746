//! A table's triggers, read under its lock.

use super::{UserTable, ours};
use crate::error::{Code, Error, Result};
use crate::table_trigger::Trigger;
use std::ffi::CStr;

impl UserTable {
    pub fn triggers(&self) -> Vec<Trigger> {
        self.view().triggers()
    }

    /// The trigger of that name, if it calls that function.
    pub fn trigger(&self, name: &CStr, function: &CStr) -> Option<Trigger> {
        let function = ours(function, &[]);
        let is_it = |trigger: &Trigger| trigger.function == function && *trigger.name == *name;
        self.triggers().into_iter().find(is_it)
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
