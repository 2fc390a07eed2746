//! The triggers that `ledger` makes.
//!
//! A statement fires the statement triggers of the table that it names, with all rows that it changed
//! in the table and its partitions. So each table that a statement can name has them.

use keysmith_core::ledger::keys::LedgerId;
use pg::error::Error;
use pg::text::{self, literal};
use pg::trigger::TriggerEvent;
use pg::user_table::{FiresOn, Trigger, UserTable, create_trigger_firing, drop_trigger, ours};
use pg::{input, output};
use std::ffi::CStr;

pub const FUNCTION: &CStr = c"ledger_changes";

struct Made {
    name: &'static CStr,
    when: &'static str,
    mode: FiresOn,
    /// Whether PostgreSQL makes those of the partitions.
    is_cloned: bool,
}

const fn of_statement(name: &'static CStr, when: &'static str, mode: FiresOn) -> Made {
    Made { name, when, mode, is_cloned: false }
}

const INSERT: &CStr = c"~keysmith_3_insert";
const UPDATE: &CStr = c"~keysmith_3_update";
const DELETE: &CStr = c"~keysmith_3_delete";
const TRUNCATE: &CStr = c"~keysmith_3_truncate";
const APPLIED: &CStr = c"~keysmith_3_applied";

const TRIGGERS: [Made; 5] = [
    of_statement(INSERT, "AFTER INSERT ON {} REFERENCING NEW TABLE AS added", FiresOn::Origin),
    of_statement(
        UPDATE,
        "AFTER UPDATE ON {} REFERENCING OLD TABLE AS removed NEW TABLE AS added",
        FiresOn::Origin,
    ),
    of_statement(DELETE, "AFTER DELETE ON {} REFERENCING OLD TABLE AS removed", FiresOn::Origin),
    of_statement(TRUNCATE, "BEFORE TRUNCATE ON {}", FiresOn::Always),
    // Changes that come by logical replication fire row triggers only.
    Made {
        name: APPLIED,
        when: "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW",
        mode: FiresOn::Replica,
        is_cloned: true,
    },
];

/// The name of the trigger that records an event.
pub fn name_for(event: TriggerEvent, is_for_row: bool) -> &'static CStr {
    match event {
        _ if is_for_row => APPLIED,
        TriggerEvent::Insert => INSERT,
        TriggerEvent::Update => UPDATE,
        TriggerEvent::Delete => DELETE,
        TriggerEvent::Truncate => TRUNCATE,
    }
}

/// Makes those that a table lacks, or has otherwise. `top` is the table that the ledger is of.
pub fn attach(table: &UserTable, top: &UserTable, arguments: &[String]) {
    let written: Vec<String> = arguments.iter().map(|argument| literal(argument)).collect();
    for made in &TRIGGERS {
        if made.is_cloned && !table.needs_trigger(top) || made.fault(table, arguments).is_none() {
            continue;
        }
        let statement = format!(
            "CREATE OR REPLACE TRIGGER \"{}\" {} EXECUTE FUNCTION keysmith.ledger_changes({})",
            text::lossy(made.name.to_bytes()),
            made.when.replace("{}", &table.name()),
            written.join(", "),
        );
        create_trigger_firing(table, &statement, ours(FUNCTION, &[]), made.mode);
    }
}

/// Drops those of a table. PostgreSQL drops what partitions have of their table's.
pub fn detach(table: &UserTable) {
    for trigger in table.triggers() {
        let is_ours = trigger.function == ours(FUNCTION, &[]);
        if is_ours && !trigger.is_of_the_whole {
            let name = text::quoted_name(&text::lossy(trigger.name.to_bytes()));
            drop_trigger(&format!("DROP TRIGGER {name} ON {}", table.name()), trigger.oid);
        }
    }
}

/// What is wrong with the triggers of a table.
pub fn faults(table: &UserTable, arguments: &[String]) -> Vec<String> {
    TRIGGERS.iter().filter_map(|made| made.fault(table, arguments)).collect()
}

/// Whether a table lacks all those that statements fire.
pub fn has_none(table: &UserTable) -> bool {
    let own = |made: &Made| !made.is_cloned && table.trigger(made.name, FUNCTION).is_some();
    !TRIGGERS.iter().any(own)
}

/// Whether TRUNCATE fires a trigger of the table.
pub fn has_truncate(table: &UserTable) -> bool {
    table.trigger(TRUNCATE, FUNCTION).is_some_and(|trigger| trigger.is_enabled(FiresOn::Always))
}

/// One of our names, if a trigger of the table has it and calls another function.
pub fn foreign_trigger(table: &UserTable) -> Option<String> {
    let ours = ours(FUNCTION, &[]);
    let has_name = |trigger: &Trigger| TRIGGERS.iter().any(|made| *made.name == *trigger.name);
    let mut all = table.triggers().into_iter();
    let found = all.find(|trigger| trigger.function != ours && has_name(trigger));
    found.map(|trigger| text::lossy(trigger.name.to_bytes()))
}

/// The arguments of a table's triggers: the ledger's id, and the columns that it covers.
pub fn arguments_of(table: &UserTable) -> Option<Vec<String>> {
    let ours = ours(FUNCTION, &[]);
    let all = table.triggers();
    let first = all.iter().find(|trigger| trigger.function == ours);
    first.map(|trigger| trigger.arguments.clone())
}

/// The arguments that the triggers of a ledger have.
pub fn arguments(id: &LedgerId, names: &[String]) -> Vec<String> {
    std::iter::once(output::uuid(id)).chain(names.iter().cloned()).collect()
}

/// The id of a ledger, from the arguments of its triggers.
pub fn id_in(arguments: &[String]) -> Option<LedgerId> {
    arguments.first().and_then(|id| input::uuid(id))
}

impl Made {
    fn fault(&self, table: &UserTable, arguments: &[String]) -> Option<String> {
        let name = text::lossy(self.name.to_bytes());
        let said = |what: &str| Some(format!("trigger {name} of {} {what}", table.name()));
        let has_arguments = |trigger: &Trigger| trigger.arguments == arguments;
        match table.trigger(self.name, FUNCTION) {
            None => said("is missing"),
            Some(trigger) if !has_arguments(&trigger) => said("is that of another ledger"),
            Some(trigger) if !trigger.is_enabled(self.mode) => {
                said("is disabled, or enabled in another mode")
            }
            Some(_) => None,
        }
    }
}

/// An error for a table that has no ledger.
pub fn no_ledger(table: &UserTable) -> Error {
    Error::not_found(format!("table {} has no ledger", table.name()))
        .hint("Call keysmith.ledger first.")
}
