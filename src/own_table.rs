//! A table of the caller's, which one of our functions changes for the caller.
//!
//! The table is known by its OID. It is locked before anything about it is checked, and the
//! lock is kept until the transaction ends: so its owner, its columns and their types stay as
//! they were checked. But a statement needs a name, and a name can come to mean another table
//! meanwhile: renaming a schema takes no lock of the tables in it. So each change says how to
//! tell, by the OID, whether it was made. One that went to another table is an error, which
//! takes it back.
//!
//! Statements run with the caller's rights, in a security-restricted operation, under a
//! search path that holds nothing but PostgreSQL's own.

use crate::call::must_not_be_null;
use crate::catalog::Catalog;
use crate::catalog::tables::PRIVATE;
use crate::error::{Code, Error, Result};
use crate::major;
use crate::manage::authority::{as_owner, as_user};
use crate::manage::sql::{self, Param};
use pgrx::pg_sys::{self, Datum, LOCKMODE, Oid};

/// A table that is locked and belongs to the caller.
pub struct OwnTable {
    pub oid: Oid,
}

impl OwnTable {
    /// Locks a table, given as a `regclass`. It must be an application's, and the caller its
    /// owner: nobody may wait for a lock on someone else's table.
    pub fn lock(relation: Option<Datum>, argument: &str, mode: u32) -> Result<OwnTable> {
        let datum = relation.ok_or_else(|| must_not_be_null(argument))?;
        let table = OwnTable { oid: Oid::from(datum.value() as u32) };
        let no_table = || Error::argument(argument, "must be a table of an application");
        // SAFETY: look-ups in caches; PostgreSQL raises an error for what is gone since. The
        // relation is open while its entry is read.
        unsafe {
            if pg_sys::get_rel_relkind(table.oid) == 0 {
                return Err(no_table());
            }
            table.check_owner();
            let relation = pg_sys::try_relation_open(table.oid, mode as LOCKMODE);
            if relation.is_null() {
                return Err(no_table());
            }
            let entry = *(*relation).rd_rel;
            pg_sys::relation_close(relation, pg_sys::NoLock as LOCKMODE);
            table.check_owner();
            let is_table = [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE]
                .contains(&(entry.relkind as u8));
            // PostgreSQL's own tables have lower numbers.
            let is_theirs = table.oid.to_u32() >= pg_sys::FirstNormalObjectId
                && entry.relnamespace != pg_sys::get_namespace_oid(PRIVATE.as_ptr(), true)
                && entry.relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP;
            if is_table && is_theirs { Ok(table) } else { Err(no_table()) }
        }
    }

    /// Raises PostgreSQL's own error if the caller is not the owner.
    fn check_owner(&self) {
        // SAFETY: PostgreSQL raises an error if the table is gone.
        unsafe {
            if !major::owns_relation(self.oid, pg_sys::GetUserId()) {
                pg_sys::aclcheck_error(
                    pg_sys::AclResult::ACLCHECK_NOT_OWNER,
                    pg_sys::ObjectType::OBJECT_TABLE,
                    pg_sys::get_rel_name(self.oid),
                );
            }
        }
    }

    /// Makes a change, unless it is made already. `is_made` is a query as `is_so` takes it; the
    /// statement is given the table's name.
    pub fn change(
        &self,
        is_made: &str,
        params: &[Param],
        statement: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        if self.is_so(is_made, params)? {
            return Ok(());
        }
        let statement = statement(&self.name()?);
        // SAFETY: looks up who the current user is.
        let caller = unsafe { pg_sys::GetUserId() };
        as_user(caller, pg_sys::SECURITY_RESTRICTED_OPERATION, || sql::execute(&statement, &[]))?;
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

    /// The schema's and the table's names as they are now, quoted for a statement.
    pub fn name(&self) -> Result<String> {
        let name = self.look(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1",
            &[],
            |row| row.text(1),
        )?;
        name.ok_or_else(|| Error::not_found("the table is gone, or its name has no UTF-8 form"))
    }

    /// Reads the one row of such a query. It sees what is committed now, whatever the
    /// transaction's snapshot.
    pub fn look<T: Default>(
        &self,
        query: &str,
        params: &[Param],
        read: impl FnOnce(sql::Row) -> T,
    ) -> Result<T> {
        let catalog = Catalog::open()?;
        let params: Vec<Param> = [self.param()].iter().chain(params).copied().collect();
        as_owner(&catalog, || {
            let rows = sql::query_now(&catalog, query, &params)?;
            Ok(rows.first().map(read).unwrap_or_default())
        })
    }

    /// The table's OID, for a statement.
    pub fn param(&self) -> Param {
        Param::given(pg_sys::OIDOID, Some(Datum::from(self.oid)))
    }
}
