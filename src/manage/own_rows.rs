//! The half of a view for readers who see only some tenants: `own_VIEW`.
//!
//! It reads the private view `all_VIEW` as the extension's owner, where EXPLAIN shows nothing
//! of it. The rows of the reader are found here, by who asks and for which key. The bounds
//! of the query only leave out rows that the query would leave out itself.

use super::authority;
use crate::catalog::Catalog;
use crate::catalog::tables::PRIVATE;
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::lookup;
use pg::result_set::ResultSet;
use pg::spi::{self, Param};
use pg::user_table::column_name;
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute, Oid};

sql_functions! {
    keysmith_own_rows => own_rows;
    keysmith_shows_everything => shows_everything;
}

/// The operators of bounds, by their numbers there.
pub const OPERATORS: [&str; 5] = ["=", "<", "<=", ">", ">="];

/// The types whose columns may have bounds, and their arrays', in the order of the arguments.
pub const BOUNDED: [(Oid, Oid); 3] = [
    (pg_sys::UUIDOID, pg_sys::UUIDARRAYOID),
    (pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZARRAYOID),
    (pg_sys::DATEOID, pg_sys::DATEARRAYOID),
];

fn shows_everything(_: &Call) -> Result<Option<Datum>> {
    Ok(Some(Datum::from(authority::sight()?.tenants.is_none())))
}

fn own_rows(call: &Call) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    let is_shown = call.boolean(0, "is_shown")?;
    let sight = authority::sight()?;
    if sight.tenants.is_none() && is_shown {
        return Ok(None);
    }
    let columns = result.columns();
    let mut statement = format!(
        "SELECT r.* FROM keysmith_private.{} r
         WHERE ($1 IS NULL OR r.tenant_id = ANY ($1))",
        relation(result.row_type())?
    );
    if sight.environment.is_some()
        && columns.iter().any(|column| column_name(column) == "environment")
    {
        // A row without an environment belongs to the whole tenant.
        statement.push_str(" AND (r.environment = $2 OR r.environment IS NULL)");
    }
    statement.push_str(&bounds(call, columns)?);
    let mut params = vec![
        Param::uuids(sight.tenants.as_deref()),
        Param::server_text(sight.environment.as_deref()),
    ];
    params.extend((2..).zip(BOUNDED).map(|(n, (_, array))| call.given(n, array)));
    Catalog::open()?.as_owner(|| spi::each(&statement, &params, |row| row.put_into(result)))?;
    Ok(None)
}

/// The name of the private view whose rows are returned.
fn relation(row_type: Oid) -> Result<String> {
    lookup::relation_of_type(row_type)
        .filter(|(schema, _)| lookup::schema(PRIVATE) == Some(*schema))
        .map(|(_, name)| name)
        .ok_or_else(|| {
            Error::new(Code::Installation, "the function is not that of one of our views")
        })
}

/// The bounds as conditions. They come in pairs: a column's number and an operator's. Their
/// values are in the arrays of the columns' types, in the same order.
fn bounds(call: &Call, columns: &[FormData_pg_attribute]) -> Result<String> {
    let mut conditions = String::new();
    let mut used = [0; BOUNDED.len()];
    let bounds = call.array(1).map(|bounds| bounds.smallints()).unwrap_or_default();
    for bound in bounds.chunks(2) {
        let mut condition = || {
            let [column, operator] = *bound else { return None };
            let column = columns.get(usize::try_from(column).ok()?.checked_sub(1)?)?;
            let operator = OPERATORS.get(usize::try_from(operator).ok()?)?;
            let array = BOUNDED.iter().position(|(kind, _)| *kind == column.atttypid)?;
            used[array] += 1;
            let name = column_name(column);
            let (argument, n) = (array + 3, used[array]);
            Some(format!(" AND r.\"{name}\" OPERATOR(pg_catalog.{operator}) (${argument})[{n}]"))
        };
        conditions
            .push_str(&condition().ok_or_else(|| Error::argument("bounds", "must be bounds"))?);
    }
    Ok(conditions)
}
