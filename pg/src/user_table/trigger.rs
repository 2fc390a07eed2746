//! A table's triggers, read under its lock.

use super::{UserTable, ours};
use crate::error::{Code, Error, Result};
use crate::table_trigger::Trigger;
use std::ffi::CStr;

impl UserTable {
    pub fn triggers(&self) -> Vec<Trigger> {
        self.view().triggers()
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
