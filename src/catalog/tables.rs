//! Where our tables are: the OIDs of tables, indexes and types.

use super::columns;
use super::scan::{Relation, attribute_name};
use crate::composite::RowType;
use crate::error::{Code, Error, Result};
use crate::major;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// What people and programs call and read.
const PUBLIC: &CStr = c"keysmith";
/// Our tables; only the extension's owner can name them.
pub const PRIVATE: &CStr = c"keysmith_private";

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
    pub route: Table,
    pub answer: Table,
    pub plan_feature: Table,
    pub tenant: Table,
    pub member: Table,
    pub key: Table,
    /// The same table, its rows found by id.
    pub key_by_id: Table,
    /// The same table, its rows found by tenant.
    pub key_by_tenant: Table,
    /// Credits, found by the key or by the tenant that has them.
    pub credit_of_key: Table,
    pub credit_of_tenant: Table,
    pub access: Table,
    pub audit_entry: Table,
    pub touch: Table,
    /// The row type of a verdict, and the relation that stands for it.
    pub verdict: RowType,
    verdict_relation: Oid,
}

impl Tables {
    pub fn resolve() -> Result<Tables> {
        // SAFETY: a look-up by name, which gives InvalidOid if there is none.
        let [public, private] =
            [PUBLIC, PRIVATE].map(|name| unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) });
        let relation = |name: &CStr, schema: Oid| {
            // SAFETY: as above.
            found(unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }, name)
        };
        let table = |name: &CStr, index: &CStr| -> Result<Table> {
            Ok(Table { table: relation(name, private)?, index: relation(index, private)? })
        };
        let tables = Tables {
            keyspace: table(c"keyspace", c"keyspace_pkey")?,
            prefix: table(c"keyspace_prefix", c"keyspace_prefix_pkey")?,
            scope: table(c"scope", c"scope_pkey")?,
            role: table(c"role", c"role_pkey")?,
            route: table(c"route", c"route_pkey")?,
            answer: table(c"answer", c"answer_pkey")?,
            plan_feature: table(c"plan_feature", c"plan_feature_pkey")?,
            tenant: table(c"tenant", c"tenant_pkey")?,
            member: table(c"member", c"member_pkey")?,
            key: table(c"key", c"key_digest_keyspace_key")?,
            key_by_id: table(c"key", c"key_pkey")?,
            key_by_tenant: table(c"key", c"key_of_tenant")?,
            credit_of_key: table(c"credit", c"credit_key_id_key")?,
            credit_of_tenant: table(c"credit", c"credit_tenant_id_key")?,
            access: table(c"access", c"access_role_level_tenant_id_key")?,
            audit_entry: table(c"audit_entry", c"audit_entry_pkey")?,
            touch: table(c"touch", c"touch_of_key")?,
            verdict: row_type(c"verdict", public)?,
            verdict_relation: relation(c"verdict", public)?,
        };
        tables.check_columns()?;
        Ok(tables)
    }

    /// Columns are read by their numbers, so a library that is newer or older than
    /// the tables must not read them at all.
    fn check_columns(&self) -> Result<()> {
        let expected = [
            (self.keyspace, columns::keyspace::NAMES),
            (self.prefix, columns::keyspace_prefix::NAMES),
            (self.scope, columns::scope::NAMES),
            (self.role, columns::role::NAMES),
            (self.route, columns::route::NAMES),
            (self.answer, columns::answer::NAMES),
            (self.plan_feature, columns::plan_feature::NAMES),
            (self.tenant, columns::tenant::NAMES),
            (self.member, columns::member::NAMES),
            (self.key, columns::key::NAMES),
            (self.credit_of_key, columns::credit::NAMES),
            (self.access, columns::access::NAMES),
            (self.audit_entry, columns::audit_entry::NAMES),
            (self.touch, columns::touch::NAMES),
        ];
        if expected.iter().all(|(table, names)| Relation::open(*table).has_columns(names)) {
            return Ok(());
        }
        Err(mismatch("the library does not fit the extension's tables"))
    }

    /// All tables, and the type of verdicts: rows of the policy's, and the form of each of them, make what we
    /// remember stale when they change.
    pub fn watched(&self) -> [Oid; WATCHED] {
        let all = [
            self.keyspace,
            self.prefix,
            self.scope,
            self.role,
            self.route,
            self.answer,
            self.plan_feature,
            self.tenant,
            self.member,
            self.key,
            self.credit_of_key,
            self.access,
            self.audit_entry,
            self.touch,
        ];
        let mut watched = [self.verdict_relation; WATCHED];
        for (place, table) in watched.iter_mut().zip(all) {
            *place = table.table;
        }
        watched
    }
}

/// How many tables there are, and the type.
pub const WATCHED: usize = 15;

/// The row type of that name, if it has the columns that verdicts are written with.
fn row_type(name: &CStr, schema: Oid) -> Result<RowType> {
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
    let oid = found(oid, name)?;
    let expected = columns::VERDICT.iter().map(|(name, oid)| (name.as_bytes(), oid.value(), false));
    // SAFETY: PostgreSQL raises an error if there is no such type; the description is
    // released after its use.
    let (is_expected, row_type) = unsafe {
        let description = pg_sys::lookup_rowtype_tupdesc(oid, -1);
        let columns = major::attributes(description)
            .iter()
            .map(|column| (attribute_name(column), column.atttypid, column.attisdropped));
        let is_expected = columns.eq(expected);
        let row_type = RowType::new(description);
        if (*description).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(description);
        }
        (is_expected, row_type)
    };
    if !is_expected {
        return Err(mismatch("the library does not fit the extension's type verdict"));
    }
    Ok(row_type)
}

fn found(oid: Oid, name: &CStr) -> Result<Oid> {
    if oid == Oid::INVALID {
        let name = name.to_string_lossy();
        return Err(mismatch(&format!("the extension's own {name} is missing")));
    }
    Ok(oid)
}

fn mismatch(message: &str) -> Error {
    Error::new(Code::Installation, message).hint(
        "Library and extension may be of different versions: see ALTER EXTENSION keysmith UPDATE.",
    )
}
