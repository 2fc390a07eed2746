//! Statements that change a table for its owner, where PostgreSQL has no function that takes
//! an OID.
//!
//! A statement names the table. By the time PostgreSQL looks up the name, it may be that of another
//! table: renaming a schema takes no lock on its tables. So each change has a query that says, by the
//! OID, whether the change was made. If it was not, an error undoes it.

use crate::catalog::Catalog;
use pg::error::{Code, Error, Result};
use pg::role::{self, as_user};
use pg::spi::{self, Param};
use pg::user_table::{UserTable, name_of};
use pgrx::pg_sys::{self, Oid};

/// A table that the caller owns. It is locked until the transaction ends. It is not open, since
/// PostgreSQL does not change a table that is in use.
pub struct LockedTable {
    oid: Oid,
}

impl LockedTable {
    pub fn of(table: UserTable) -> LockedTable {
        LockedTable { oid: table.oid() }
    }

    /// Makes a change, unless it is made already. `is_made` is a query for `is_so`; `statement` gets
    /// the table's name. It runs with the caller's rights, in a security-restricted operation, under a
    /// search path that holds only PostgreSQL's own objects.
    pub fn change(
        &self,
        is_made: &str,
        params: &[Param],
        statement: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        if self.is_so(is_made, params)? {
            return Ok(());
        }
        let statement = statement(&self.name());
        as_user(role::current(), pg_sys::SECURITY_RESTRICTED_OPERATION, || {
            spi::execute(&statement, &[])
        })?;
        if self.is_so(is_made, params)? {
            return Ok(());
        }
        Err(Error::new(Code::Conflict, "the table was given another name meanwhile")
            .hint("Nothing was changed. Call the function again."))
    }

    /// Asks the catalogs, as the extension's owner, by a query whose `$1` is the table's OID.
    pub fn is_so(&self, query: &str, params: &[Param]) -> Result<bool> {
        self.look(query, params, |row| row.boolean(1))
    }

    /// Reads the one row of such a query. It sees what is committed now, even if the
    /// transaction's snapshot is older.
    pub fn look<T: Default>(
        &self,
        query: &str,
        params: &[Param],
        read: impl FnOnce(spi::ResultRow) -> T,
    ) -> Result<T> {
        let catalog = Catalog::open()?;
        let params: Vec<Param> = [self.param()].iter().chain(params).copied().collect();
        catalog.as_owner(|| {
            let found = spi::query_now(query, &params, |rows| rows.first().map(read))?;
            Ok(found.unwrap_or_default())
        })
    }

    /// Its name with the schema as it is now, quoted.
    pub fn name(&self) -> String {
        name_of(self.oid).unwrap_or_default()
    }

    /// The table's OID, for a statement.
    pub fn param(&self) -> Param<'static> {
        Param::oid(self.oid)
    }
}
