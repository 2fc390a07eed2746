//! The trigger on protected tables: what is written is digested before it is stored.

use super::cycle::{self, Pass};
use super::trigger::RowTrigger;
use super::value::{self, Kind};
use super::{pages, table};
use keysmith_core::rows::stored::{self, Algorithm};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::memo;
use pg::varlena;
use pgrx::pg_sys::{Datum, Oid};

sql_functions! {
    keysmith_hash_columns => hash_columns;
}

struct Column {
    number: i16,
    oid: Oid,
    name: Vec<u8>,
    kind: Kind,
    algorithm: Algorithm,
}

/// What the trigger's arguments mean for its table.
struct Plan {
    columns: Vec<Column>,
    family: Oid,
    is_partition: bool,
}

impl Plan {
    /// A column that isn't there any more, or isn't what it was, is an error: what was
    /// to be digested would be stored as it is.
    fn of(trigger: &RowTrigger) -> Result<Plan> {
        let mut columns = Vec::new();
        for argument in trigger.arguments() {
            let argument = value::shown(argument.to_bytes());
            let (name, algorithm) = stored::column(&argument);
            columns.push(Plan::column(trigger, name, algorithm)?);
        }
        // SAFETY: the trigger manager has the relation open.
        let (family, is_partition) = unsafe { table::family(trigger.relation()) };
        Ok(Plan { columns, family, is_partition })
    }

    /// Whether the columns are those of the row at hand.
    fn fits(&self, trigger: &RowTrigger) -> bool {
        let description = trigger.description();
        // SAFETY: the trigger manager has the relation open.
        self.columns
            .iter()
            .all(|column| unsafe { table::has(description, column.number, column.oid) })
    }

    fn column(trigger: &RowTrigger, name: &str, algorithm: Algorithm) -> Result<Column> {
        // SAFETY: as above.
        let (found, relation) = unsafe {
            let found = table::columns(trigger.description())
                .find(|attribute| value::shown(table::name(attribute)) == name);
            (found, table::relation_name(trigger.relation()))
        };
        let refusal = |why: &str| {
            Error::new(
                Code::Conflict,
                format!("table {relation} is to store digests in its column {name}, {why}"),
            )
            .hint("After renaming a column or changing its type, call keysmith.unprotect and keysmith.protect.")
        };
        let attribute = found.ok_or_else(|| refusal("which is not there"))?;
        if table::is_generated(attribute) {
            return Err(refusal("which is generated"));
        }
        let kind = Kind::of(attribute)
            .ok_or_else(|| refusal("which is not text, bytea or a varchar that is long enough"))?;
        Ok(Column {
            number: attribute.attnum,
            oid: attribute.atttypid,
            name: table::name(attribute).to_vec(),
            kind,
            algorithm,
        })
    }
}

fn hash_columns(call: &Call) -> Result<Option<Datum>> {
    let trigger = RowTrigger::of(call, "hash_columns", "protect")?;
    let plan = memo::remembered(call, |plan: &Plan| plan.fits(&trigger), || Plan::of(&trigger))?;
    let mut changes = Vec::with_capacity(plan.columns.len());
    for column in &plan.columns {
        if let Some(value) = trigger.value(trigger.after(), column.number)
            && let Some(digest) = digested(&trigger, plan, column, value)?
        {
            changes.push((column.number, digest));
        }
    }
    Ok(Some(trigger.result(&changes)))
}

/// What to store in place of a value; `None` if that is to stay as it is.
fn digested(
    trigger: &RowTrigger,
    plan: &Plan,
    column: &Column,
    value: Datum,
) -> Result<Option<Datum>> {
    let old = trigger.before();
    let (this, other) =
        if old.is_some() { (Pass::Update, Pass::Insert) } else { (Pass::Insert, Pass::Update) };
    let was = old.and_then(|old| trigger.value(old, column.number));
    // SAFETY: columns of this kind have varlenas; the rows live as long as the call.
    let is_untouched = was.is_some_and(|was| unsafe { value::same(was, value) });
    // Only a row that may yet move, or be updated in place of an insert, comes again.
    let comes_again = old.is_none() || plan.is_partition;
    let may_have_come = old.is_some() || plan.is_partition;
    if is_untouched && !comes_again && !pages::is_walking(trigger.relation()) {
        return Ok(None);
    }
    // SAFETY: as above.
    let content = unsafe { varlena::bytes(value) };
    let keeps = if is_untouched {
        !pages::is_walking(trigger.relation()) || column.kind.read(content).is_some()
    } else {
        may_have_come && cycle::left(other, plan.family, &column.name, Some(content))
    };
    if keeps {
        if comes_again {
            cycle::remember(this, plan.family, &column.name, Some(content.to_vec()));
        }
        return Ok(None);
    }
    let (stored, datum) = column.kind.datum(&column.kind.digest(column.algorithm, content)?);
    if comes_again {
        cycle::remember(this, plan.family, &column.name, Some(stored));
    }
    Ok(Some(datum))
}
