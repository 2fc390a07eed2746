//! The trigger on sealed tables, and what it means for their rows.

use super::canonical::Form;
use super::cycle::{self, Pass};
use super::table;
use super::trigger::RowTrigger;
use super::value::{self, varlena_of};
use crate::pepper;
use keysmith_core::rows::seal::Problem;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::memo;
use pg::varlena;
use pgrx::pg_sys::{self, Datum, HeapTuple, MemoryContext, Oid, TupleDesc};
use std::ffi::CStr;

sql_functions! {
    keysmith_seal_row => seal_row;
}

/// What `seal_rows` calls its triggers, and the function that they call.
pub const TRIGGER: &CStr = c"~keysmith_2_seal";
pub const FUNCTION: &CStr = c"seal_row";

/// What the trigger's arguments mean: the column of the seal, what the table was called
/// when it was first sealed, and the columns covered, all if none is named.
pub struct Plan {
    seal: i16,
    name: Vec<u8>,
    form: Form,
}

impl Plan {
    /// # Safety
    /// The description must be valid; the context must outlive the plan.
    pub unsafe fn of(
        description: TupleDesc,
        arguments: &[&[u8]],
        context: MemoryContext,
    ) -> Result<Plan> {
        let [name, identity, columns @ ..] = arguments else {
            return Err(refusal("its trigger has too few arguments"));
        };
        // SAFETY: as the caller promises.
        let seal = unsafe { table::columns(description).find(|found| table::name(found) == *name) };
        let seal = seal
            .filter(|found| found.atttypid == pg_sys::BYTEAOID && !table::is_generated(found))
            .ok_or_else(|| refusal(&format!("it has no column {} of bytea", value::shown(name))))?
            .attnum;
        // SAFETY: as above.
        let form = unsafe { Form::of(description, identity, seal, columns, context) };
        if !columns.is_empty() && form.width() != columns.len() {
            return Err(refusal("a column that its seals cover is not there"));
        }
        Ok(Plan { seal, name: name.to_vec(), form })
    }

    /// Whether the plan is one for rows of this description.
    ///
    /// # Safety
    /// The description must be valid.
    unsafe fn fits(&self, description: TupleDesc) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            table::has(description, self.seal, pg_sys::BYTEAOID) && self.form.fits(description)
        }
    }

    /// The seal that a row should have.
    ///
    /// # Safety
    /// The values must be of a row that the plan fits.
    unsafe fn seal(&self, value: impl Fn(i16) -> Option<Datum>) -> Datum {
        // SAFETY: as the caller promises.
        varlena_of(&unsafe { self.form.row(value) }.seal(pepper::peppers()))
    }

    /// Checks the seal that a row has.
    ///
    /// # Safety
    /// As for `seal`.
    pub unsafe fn check(
        &self,
        value: impl Fn(i16) -> Option<Datum>,
    ) -> std::result::Result<(), Problem> {
        // SAFETY: as the caller promises; the seal is a bytea.
        unsafe {
            let seal = value(self.seal).map(|datum| varlena::bytes(datum));
            self.form.row(value).check(seal, pepper::peppers())
        }
    }
}

fn refusal(why: &str) -> Error {
    Error::new(Code::Conflict, format!("the table's rows can't be sealed: {why}")).hint(
        "After renaming or dropping a column, call keysmith.unseal_rows and keysmith.seal_rows.",
    )
}

/// What the trigger remembers of its table.
struct Sealed {
    plan: Plan,
    family: Oid,
    is_partition: bool,
}

fn seal_row(call: &Call) -> Result<Option<Datum>> {
    let trigger = RowTrigger::of(call, "seal_row", "seal_rows")?;
    let description = trigger.description();
    // SAFETY: the trigger manager has the relation open.
    let fits = |sealed: &Sealed| unsafe { sealed.plan.fits(description) };
    let sealed = memo::remembered(call, fits, || {
        let arguments: Vec<&[u8]> =
            trigger.arguments().iter().map(|text| text.to_bytes()).collect();
        // SAFETY: as above; the plan is remembered in that context.
        unsafe {
            let plan = Plan::of(description, &arguments, memo::context(call))?;
            let (family, is_partition) = table::family(trigger.relation());
            Ok(Sealed { plan, family, is_partition })
        }
    })?;
    let plan = &sealed.plan;
    if is_to_stay_broken(&trigger, sealed) {
        return Ok(Some(trigger.result(&[])));
    }
    // SAFETY: the row is of the relation.
    let seal = unsafe { plan.seal(|column| trigger.value(trigger.after(), column)) };
    Ok(Some(trigger.result(&[(plan.seal, seal)])))
}

/// A row whose seal is broken or missing is not fixed by the next update that happens to
/// it: the seal stays as it is, and the row is found. An update that sets the seal, to
/// whatever, does fix it.
fn is_to_stay_broken(trigger: &RowTrigger, sealed: &Sealed) -> bool {
    let Sealed { plan, family, is_partition } = sealed;
    let content = |row: HeapTuple| {
        // SAFETY: the column is a bytea; both rows live as long as the call.
        trigger.value(row, plan.seal).map(|datum| unsafe { varlena::bytes(datum) })
    };
    let given = content(trigger.after());
    let Some(old) = trigger.before() else {
        // An update that moves the row to another partition inserts it there.
        return *is_partition && cycle::left(Pass::Update, *family, &plan.name, given);
    };
    // SAFETY: the row is of the relation.
    let broken = content(old) == given
        && unsafe { plan.check(|column| trigger.value(old, column)) }.is_err();
    if broken && *is_partition {
        cycle::remember(Pass::Update, *family, &plan.name, given.map(<[u8]>::to_vec));
    }
    broken
}
