//! Where our tables are: the OIDs of tables, indexes and types.

use crate::error::{Code, Error, Result};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

pub const SCHEMA: &CStr = c"keysmith";

/// A table and the index that its rows are found by.
#[derive(Clone, Copy)]
pub struct Table {
    pub table: Oid,
    pub index: Oid,
}

pub struct Tables {
    pub keyspace: Table,
    pub prefix: Table,
    pub scope: Table,
    pub role: Table,
    pub tenant: Table,
    pub member: Table,
    pub key: Table,
    /// The same table, its rows found by tenant.
    pub key_by_tenant: Table,
    /// The row type of a verdict.
    pub verdict: Oid,
}

impl Tables {
    pub fn resolve() -> Result<Tables> {
        // SAFETY: a look-up by name, which gives InvalidOid if there is none.
        let schema = unsafe { pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true) };
        let relation = |name: &CStr| {
            // SAFETY: as above.
            found(unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }, name)
        };
        let table = |name: &CStr, index: &CStr| -> Result<Table> {
            Ok(Table { table: relation(name)?, index: relation(index)? })
        };
        Ok(Tables {
            keyspace: table(c"keyspace", c"keyspace_pkey")?,
            prefix: table(c"keyspace_prefix", c"keyspace_prefix_pkey")?,
            scope: table(c"scope", c"scope_pkey")?,
            role: table(c"role", c"role_pkey")?,
            tenant: table(c"tenant", c"tenant_pkey")?,
            member: table(c"member", c"member_pkey")?,
            key: table(c"key", c"key_digest_keyspace_key")?,
            key_by_tenant: table(c"key", c"key_of_tenant")?,
            verdict: row_type(c"verdict", schema)?,
        })
    }

    /// The tables whose changes make what we remember stale. The key table is among
    /// them because it goes when the extension is dropped; rows of tenants, members
    /// and keys are never remembered.
    pub fn watched(&self) -> [Oid; 5] {
        [self.keyspace, self.prefix, self.scope, self.role, self.key].map(|table| table.table)
    }
}

fn row_type(name: &CStr, schema: Oid) -> Result<Oid> {
    // SAFETY: a look-up in the cache of types, which gives InvalidOid if there is none.
    let oid = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as pg_sys::AttrNumber,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        )
    };
    found(oid, name)
}

fn found(oid: Oid, name: &CStr) -> Result<Oid> {
    if oid == Oid::INVALID {
        let name = name.to_string_lossy();
        return Err(Error::new(
            Code::Installation,
            format!("the extension's own keysmith.{name} is missing"),
        )
        .hint("Run DROP EXTENSION keysmith and CREATE EXTENSION keysmith, or restore a backup."));
    }
    Ok(oid)
}
