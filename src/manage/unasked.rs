//! What acts of the worker, which nobody asked for, have in common.

use crate::audit::{self, Actor};
use crate::catalog::Catalog;
use pg::error::Result;
use pg::notice::warning;
use pg::{role, spi, text};

/// Who acts: the extension's owner.
pub fn actor() -> Actor {
    Actor {
        role: text::name_of_role(role::current()),
        session_role: text::name_of_role(role::of_session()),
        key: None,
        member: None,
    }
}

/// The keyspaces whose chains of the audit can be extended. The others wait until their cause is fixed:
/// a commit that fails would undo what was done in all.
pub fn keyspaces(catalog: &Catalog) -> Result<Vec<String>> {
    let all = spi::all("SELECT keyspace FROM keysmith_private.keyspace", &[], |row| row.text(1))?;
    let is_extensible = |keyspace: &String| match audit::must_be_extensible(catalog, keyspace) {
        Ok(()) => true,
        Err(error) => {
            warning(format!("keysmith: {}", error.message()), None);
            false
        }
    };
    Ok(all.into_iter().filter(is_extensible).collect())
}
