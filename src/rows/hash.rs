//! The trigger on protected tables, which replaces values by digests before they are stored.

use super::cycle::{self, Pass};
use super::pages;
use super::trigger::new_row;
use super::value::Kind;
use keysmith_core::rows::stored::{self, Algorithm};
use pg::error::{Code, Error, Result};
use pg::relation::{column_name, is_generated, name_bytes};
use pg::spi::Param;
use pg::text;
use pg::trigger::{Returned, TriggerCall, trigger_functions};
use pg::value::Value;
use pgrx::pg_sys::Oid;

trigger_functions! {
    keysmith_hash_columns => hash_columns;
}

struct Column {
    number: i16,
    oid: Oid,
    name: Vec<u8>,
    kind: Kind,
    algorithm: Algorithm,
}

/// The columns of the table that the arguments of the trigger name.
struct Plan {
    columns: Vec<Column>,
    family: Oid,
    is_partition: bool,
}

impl Plan {
    /// A missing column, or one of another type, is an error: otherwise its values would be stored
    /// without being digested.
    fn of(trigger: &TriggerCall) -> Result<Plan> {
        let mut columns = Vec::new();
        for argument in trigger.arguments() {
            let argument = text::lossy(argument.to_bytes());
            let (name, algorithm) = stored::column(&argument);
            columns.push(Plan::column(trigger, name, algorithm)?);
        }
        let (family, is_partition) = trigger.relation().family();
        Ok(Plan { columns, family, is_partition })
    }

    /// Whether the columns are those of the current row.
    fn fits(&self, trigger: &TriggerCall) -> bool {
        let description = trigger.relation().description();
        self.columns.iter().all(|column| description.has(column.number, column.oid))
    }

    fn column(trigger: &TriggerCall, name: &str, algorithm: Algorithm) -> Result<Column> {
        let mut columns = trigger.relation().description().columns();
        let found = columns.find(|attribute| column_name(attribute) == name);
        let relation = text::lossy(&trigger.relation().name());
        let refusal = |why: &str| {
            Error::new(
                Code::Conflict,
                format!("table {relation} is to store digests in its column {name}, {why}"),
            )
            .hint("After renaming a column or changing its type, call keysmith.unprotect and keysmith.protect.")
        };
        let attribute = found.ok_or_else(|| refusal("which is not there"))?;
        if is_generated(attribute) {
            return Err(refusal("which is generated"));
        }
        let kind = Kind::of(attribute)
            .ok_or_else(|| refusal("which is not text, bytea or a varchar that is long enough"))?;
        Ok(Column {
            number: attribute.attnum,
            oid: attribute.atttypid,
            name: name_bytes(attribute).to_vec(),
            kind,
            algorithm,
        })
    }
}

fn hash_columns(call: Option<&TriggerCall>) -> Result<Returned> {
    let (trigger, row) = new_row(call, "hash_columns", "protect")?;
    let plan = trigger.remembered(|plan: &Plan| plan.fits(trigger), || Plan::of(trigger))?;
    let mut digests = Vec::with_capacity(plan.columns.len());
    for column in &plan.columns {
        if let Some(value) = row.value(column.number)
            && let Some(digest) = digested(trigger, &plan, column, value)?
        {
            digests.push((column, digest));
        }
    }
    let changes: Vec<(i16, Param)> =
        digests.iter().map(|(column, digest)| (column.number, column.kind.param(digest))).collect();
    Ok(trigger.returned(row.with(&changes)))
}

/// The digest to store in place of a value; `None` if the value stays.
fn digested(
    trigger: &TriggerCall,
    plan: &Plan,
    column: &Column,
    value: Value,
) -> Result<Option<Vec<u8>>> {
    let old = trigger.old();
    let (this, other) =
        if old.is_some() { (Pass::Update, Pass::Insert) } else { (Pass::Insert, Pass::Update) };
    let was = old.and_then(|old| old.value(column.number));
    let is_untouched = was.is_some_and(|was| was.is_same_as(value));
    // A second pass comes only if the row may still move, or be updated instead of inserted.
    let comes_again = old.is_none() || plan.is_partition;
    let may_have_come = old.is_some() || plan.is_partition;
    let is_walking = is_untouched && pages::is_walking(trigger.relation().oid());
    if is_untouched && !comes_again && !is_walking {
        return Ok(None);
    }
    let content = value.bytes();
    let keeps = if is_untouched {
        !is_walking || column.kind.read(content).is_some()
    } else {
        may_have_come && cycle::left(other, plan.family, &column.name, Some(content))
    };
    if keeps {
        if comes_again {
            cycle::remember(this, plan.family, &column.name, Some(content.to_vec()));
        }
        return Ok(None);
    }
    let stored = column.kind.content(&column.kind.digest(column.algorithm, content)?);
    if comes_again {
        cycle::remember(this, plan.family, &column.name, Some(stored.clone()));
    }
    Ok(Some(stored))
}
