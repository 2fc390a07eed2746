//! The trigger on sealed tables, and the seals of their rows.

use super::canonical::CanonicalForm;
use super::cycle::{self, Pass};
use super::trigger::new_row;
use crate::pepper;
use keysmith_core::rows::seal::Problem;
use pg::error::{Code, Error, Result};
use pg::relation::{Description, is_generated, name_bytes};
use pg::spi::Param;
use pg::text;
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pg::tuple::Tuple;
use pg::value::Value;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

trigger_functions! {
    keysmith_seal_row => seal_row;
}

/// The name of the triggers that `seal_rows` makes, and the function that they call.
pub const TRIGGER: &CStr = c"~keysmith_2_seal";
pub const FUNCTION: &CStr = c"seal_row";

/// The arguments of the trigger: the column of the seal, the name that the table had when it was
/// first sealed, and the columns that the seal covers. If no column is named, it covers all.
pub struct Plan {
    seal: i16,
    name: Vec<u8>,
    form: CanonicalForm,
}

impl Plan {
    pub fn of(description: Description, arguments: &[&[u8]]) -> Result<Plan> {
        let [name, identity, columns @ ..] = arguments else {
            return Err(refusal("its trigger has too few arguments"));
        };
        let seal = description.columns().find(|found| name_bytes(found) == *name);
        let seal = seal
            .filter(|found| found.atttypid == pg_sys::BYTEAOID && !is_generated(found))
            .ok_or_else(|| refusal(&format!("it has no column {} of bytea", text::lossy(name))))?
            .attnum;
        let form = CanonicalForm::of(description, identity, seal, columns);
        if !columns.is_empty() && form.width() != columns.len() {
            return Err(refusal("a column that its seals cover is not there"));
        }
        Ok(Plan { seal, name: name.to_vec(), form })
    }

    /// Whether the plan is for rows of this description.
    fn fits(&self, description: Description) -> bool {
        description.has(self.seal, pg_sys::BYTEAOID) && self.form.fits(description)
    }

    /// The seal that a row with these values must have.
    fn seal<'a>(&self, value: impl Fn(i16) -> Option<Value<'a>>) -> Vec<u8> {
        self.form.row(value).seal(pepper::peppers()).to_vec()
    }

    /// Checks the seal of a row.
    pub fn check<'a>(
        &self,
        value: impl Fn(i16) -> Option<Value<'a>>,
    ) -> std::result::Result<(), Problem> {
        let seal = value(self.seal).map(Value::bytes);
        self.form.row(value).check(seal, pepper::peppers())
    }
}

fn refusal(why: &str) -> Error {
    Error::new(Code::Conflict, format!("the table's rows can't be sealed: {why}")).hint(
        "After renaming or dropping a column, call keysmith.unseal_rows and keysmith.seal_rows.",
    )
}

/// The plan that the trigger remembers for its table.
struct Sealed {
    plan: Plan,
    family: Oid,
    is_partition: bool,
}

fn seal_row(call: Option<&TriggerCall>) -> Result<Returned> {
    let (trigger, row) = new_row(call, "seal_row", "seal_rows")?;
    let description = trigger.relation().description();
    let fits = |sealed: &Sealed| sealed.plan.fits(description);
    let sealed = trigger.remembered(fits, || {
        let arguments: Vec<&[u8]> =
            trigger.arguments().iter().map(|text| text.to_bytes()).collect();
        let plan = Plan::of(description, &arguments)?;
        let (family, is_partition) = trigger.relation().family();
        Ok(Sealed { plan, family, is_partition })
    })?;
    if is_to_stay_broken(trigger.old(), row, &sealed) {
        return Ok(trigger.returned(row));
    }
    let seal = sealed.plan.seal(|column| row.value(column));
    Ok(trigger.returned(row.with(&[(sealed.plan.seal, Param::bytes(&seal))])))
}

/// If the seal of a row is wrong or missing, an update does not repair it: the seal stays, so that
/// verify_rows finds the row. An update that sets the seal to any other value does repair it.
fn is_to_stay_broken(old: Option<Tuple>, new: Tuple, sealed: &Sealed) -> bool {
    let Sealed { plan, family, is_partition } = sealed;
    let given = new.value(plan.seal).map(Value::bytes);
    let Some(old) = old else {
        // An update that moves the row to another partition inserts it there.
        return *is_partition && cycle::left(Pass::Update, *family, &plan.name, given);
    };
    let broken = old.value(plan.seal).map(Value::bytes) == given
        && plan.check(|column| old.value(column)).is_err();
    if broken && *is_partition {
        cycle::remember(Pass::Update, *family, &plan.name, given.map(<[u8]>::to_vec));
    }
    broken
}
