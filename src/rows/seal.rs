//! The trigger on sealed tables, and what it finds of a row.

use super::canonical::Form;
use super::cycle::{self, Pass};
use super::trigger::RowTrigger;
use super::value::{self, varlena_of};
use super::{memo, table};
use crate::call::{self, Call, must_not_be_null, sql_functions};
use crate::error::{Code, Error, Result};
use crate::pepper;
use crate::text;
use crate::varlena;
use keysmith_core::rows::seal::{Problem, Row};
use pgrx::pg_sys::{self, Datum, HeapTuple, MemoryContext, Oid, TupleDesc};
use std::ffi::CString;

sql_functions! {
    keysmith_seal_row => seal_row;
    keysmith_seal_problem => seal_problem;
}

/// What the trigger's arguments mean: the column of the seal, what the table was called
/// when it was first sealed, and the columns covered, all if none is named.
struct Plan {
    seal: i16,
    name: Vec<u8>,
    form: Form,
}

impl Plan {
    /// # Safety
    /// The description must be valid; the context must outlive the plan.
    unsafe fn of(
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

    /// # Safety
    /// The row must be of the description that the plan was made of.
    unsafe fn row(&self, row: HeapTuple, description: TupleDesc) -> Row {
        // SAFETY: as the caller promises.
        unsafe { self.form.row(row, description) }
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
    let sealed = memo::remembered(call, || {
        let arguments: Vec<&[u8]> =
            trigger.arguments().iter().map(|text| text.to_bytes()).collect();
        // SAFETY: the trigger manager has the relation open; the plan is remembered in
        // that context.
        unsafe {
            let plan = Plan::of(trigger.description(), &arguments, memo::context(call))?;
            let (family, is_partition) = table::family(trigger.relation());
            Ok(Sealed { plan, family, is_partition })
        }
    })?;
    let plan = &sealed.plan;
    if is_to_stay_broken(&trigger, sealed) {
        return Ok(Some(trigger.result(&[])));
    }
    // SAFETY: the row is of the relation.
    let row = unsafe { plan.row(trigger.after(), trigger.description()) };
    let seal = row.seal(pepper::peppers());
    Ok(Some(trigger.result(&[(plan.seal, varlena_of(&seal))])))
}

/// A row whose seal is broken or missing is not mended by the next update that happens to
/// it: the seal stays as it is, and the row is found. An update that sets the seal, to
/// whatever, does mend it.
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
    let had = content(old);
    // SAFETY: the row is of the relation.
    let broken = had == given
        && unsafe { plan.row(old, trigger.description()) }.check(had, pepper::peppers()).is_err();
    if broken && *is_partition {
        cycle::remember(Pass::Update, *family, &plan.name, given.map(<[u8]>::to_vec));
    }
    broken
}

/// What `seal_problem` remembers: rows of one statement are of one type.
struct Asked {
    kind: (Oid, i32),
    description: TupleDesc,
    plan: Plan,
}

/// What is wrong with a row's seal; null if nothing is.
fn seal_problem(call: &Call) -> Result<Option<Datum>> {
    let row = call.datum(0).ok_or_else(|| must_not_be_null("row"))?;
    let arguments = call.array(1).ok_or_else(|| must_not_be_null("arguments"))?;
    // SAFETY: a row is passed as a varlena that says its own type.
    let (header, kind) = unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast();
        let kind = (
            pgrx::htup::heap_tuple_header_get_type_id(header),
            pgrx::htup::heap_tuple_header_get_typmod(header),
        );
        (header, kind)
    };
    let asked = memo::remembered(call, || {
        // The trigger has them in the database's encoding.
        let arguments: Vec<CString> = call::strings(arguments, "arguments")?
            .iter()
            .map(|argument| text::to_server(argument))
            .collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.to_bytes()).collect();
        // SAFETY: the copy lives in the context in which the plan is remembered.
        unsafe {
            let context = memo::context(call);
            let before = pg_sys::MemoryContextSwitchTo(context);
            let description = pg_sys::lookup_rowtype_tupdesc_copy(kind.0, kind.1);
            pg_sys::MemoryContextSwitchTo(before);
            let plan = Plan::of(description, &arguments, context)?;
            Ok(Asked { kind, description, plan })
        }
    })?;
    if asked.kind != kind {
        return Err(Error::argument("row", "must be of the same type for all rows"));
    }
    let mut tuple = pg_sys::HeapTupleData {
        // SAFETY: the header is that of a row.
        t_len: unsafe { pgrx::varsize_4b(header.cast()) } as u32,
        t_data: header,
        ..Default::default()
    };
    let plan = &asked.plan;
    // SAFETY: the row is of that type, and lives as long as the call.
    let outcome = unsafe {
        let seal = table::value(&mut tuple, plan.seal, asked.description);
        let seal = seal.map(|datum| varlena::bytes(datum));
        plan.row(&mut tuple, asked.description).check(seal, pepper::peppers())
    };
    Ok(outcome.err().map(|problem: Problem| text::datum(&problem.text())))
}
