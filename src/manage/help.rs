//! `help`: what a function, view, row type or setting is for. SQL writes the lines.

use crate::catalog::Catalog;
use pg::call::{Call, sql_functions};
use pg::error::{Error, Result};
use pg::result_set::ResultSet;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_help => help;
}

/// It reads only PostgreSQL's catalogs, so every level may ask.
fn help(call: &Call) -> Result<Option<Datum>> {
    let name = call.text(0, "name")?;
    let result = ResultSet::of_values(call);
    Catalog::open()?.as_owner(|| {
        let name = || Param::text_or_null(name.as_deref());
        let lines = spi::query("SELECT keysmith_private.help_lines($1)", &[name()], |rows| {
            rows.put_into(result);
            rows.count()
        })?;
        if lines > 0 {
            return Ok(None);
        }
        let nearest =
            spi::first("SELECT keysmith_private.nearest_names($1)", &[name()], |row| row.text(1))?;
        let mut hint = String::from("SELECT keysmith.help() lists them.");
        if let Some(nearest) = nearest {
            hint = format!("The nearest are: {nearest}. {hint}");
        }
        // The name may be a key by mistake, so it is not shown.
        Err(Error::not_found("name is not a function, view, row type or setting of keysmith")
            .hint(hint))
    })
}
