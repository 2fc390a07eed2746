//! The columns in which a table stores digests, and the checks that it can store them.

use super::value::Kind;
use crate::catalog::Catalog;
use keysmith_core::rows::stored::{self, Algorithm};
use pg::error::{Error, Result};
use pg::relation::is_generated;
use pg::spi::{self, Param};
use pg::text::{self, quoted_name};
use pg::types;
use pg::user_table::UserTable;
use pgrx::pg_sys::FormData_pg_attribute;

/// The name of a column, from an argument of the trigger.
pub fn name(argument: &str) -> &str {
    stored::column(argument).0
}

/// The new arguments of the trigger: its present ones, and the wanted columns. Checks each wanted
/// column.
pub fn wanted(
    parts: &[UserTable],
    table: &UserTable,
    before: &[String],
    asked: &[String],
    usual: Algorithm,
) -> Result<Vec<String>> {
    let mut wanted = before.to_vec();
    for written in asked {
        let (column, algorithm) = stored::column_or(written, usual);
        must_be_fit(parts, table, column)?;
        // An error if the server has no pepper.
        Kind::Text.digest(algorithm, b"")?;
        wanted.retain(|argument| name(argument) != column);
        wanted.push(format!("{column}={}", algorithm.name()));
    }
    must_not_be_cascaded_to(parts, table, asked)?;
    Ok(wanted)
}

fn must_be_fit(parts: &[UserTable], table: &UserTable, column: &str) -> Result<()> {
    let own = table.column(column).ok_or_else(|| {
        let quoted = quoted_name(column);
        refusal(format!("must name columns of {}, which {quoted} is not", table.name())).hint(
            "A column is named by itself, as email, or with its algorithm, as email=sha256 or email=hmac.",
        )
    })?;
    let shown = format!("{}.{}", table.name(), quoted_name(column));
    if is_generated(own) {
        return Err(refusal(format!("must not be generated, and {shown} is")));
    }
    for part in parts {
        let Some(attribute) = part.column(column) else { continue };
        if Kind::of(attribute).is_none() {
            let rule = "must be text, bytea, or varchar of 78 or more";
            return Err(refusal(format!("{rule}, and {shown} is {}", kind_of(attribute))).hint(
                "A digest of up to 78 characters is stored. The rules of a domain would apply to it, not to the value.",
            ));
        }
        if part.is_partitioned_by(attribute.attnum) {
            return Err(refusal(format!(
                "must not be those that rows are partitioned by, and {shown} is"
            )));
        }
    }
    Ok(())
}

/// A foreign key would write a digest to the column, and the trigger would digest it again.
fn must_not_be_cascaded_to(parts: &[UserTable], table: &UserTable, asked: &[String]) -> Result<()> {
    let oids: Vec<String> = parts.iter().map(|part| part.oid().to_u32().to_string()).collect();
    let names: Vec<String> = asked.iter().map(|argument| name(argument).to_owned()).collect();
    let found = Catalog::open()?.as_owner(|| {
        spi::first(
            "SELECT a.attname FROM pg_catalog.pg_constraint c, pg_catalog.pg_attribute a
             WHERE c.contype = 'f' AND c.confupdtype = 'c'
               AND a.attrelid = ANY ($1::oid[]) AND a.attname = ANY ($2)
               AND (c.conrelid = a.attrelid AND a.attnum = ANY (c.conkey)
                    OR c.confrelid = a.attrelid AND a.attnum = ANY (c.confkey))",
            &[Param::texts(&oids), Param::texts(&names)],
            |row| row.text(1),
        )
    })?;
    found.map_or(Ok(()), |column| {
        let shown = format!("{}.{}", table.name(), quoted_name(&column));
        Err(refusal(format!("must not be of a foreign key with ON UPDATE CASCADE, and {shown} is"))
            .hint("The update would cascade a digest, and that would be digested again."))
    })
}

fn refusal(rule: String) -> Error {
    Error::argument("columns", rule)
}

/// The name of a column's type.
pub fn kind_of(attribute: &FormData_pg_attribute) -> String {
    text::lossy(&types::name(attribute.atttypid, Some(attribute.atttypmod)))
}
