//! The OIDs of our tables, indexes and types.

use super::columns;
use super::invalidation::{self, WATCHED};
use pg::column::Definition;
use pg::composite::RowType;
use pg::error::{Code, Error, Result};
use pg::lookup;
use pg::scan::Relation;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

/// The schema of our tables and types; only the extension's owner can name them.
pub const PRIVATE: &CStr = c"keysmith_private";

/// A table and the index that its rows are found by.
#[derive(Clone, Copy)]
pub struct Table {
    pub table: Oid,
    pub index: Oid,
    /// Its first columns, or all of them.
    pub columns: &'static [Definition],
    /// The value of `invalidation::changes` before the columns were last checked.
    pub checked_at: u64,
}

impl Table {
    #[inline]
    pub fn open(self) -> Relation {
        let relation = Relation::open(self.table, self.index);
        // The table may have been altered since the columns were checked.
        if invalidation::changes() != self.checked_at && !relation.begins_with(self.columns) {
            pgrx::error!("{}", unfit().message());
        }
        relation
    }
}

/// All tables that decisions and acts of management read without SPI.
pub struct Tables {
    pub keyspace: Table,
    pub prefix: Table,
    pub scope: Table,
    pub role: Table,
    pub route: Table,
    pub endpoint: Table,
    pub answer: Table,
    pub plan_feature: Table,
    pub tenant: Table,
    /// The same table, with the index on keyspace and name.
    pub tenant_by_name: Table,
    pub member: Table,
    pub key: Table,
    /// The same table, with the index on ids.
    pub key_by_id: Table,
    /// The same table, with the index on tenants.
    pub key_by_tenant: Table,
    /// The same table, with the index on keyspace and display id.
    pub key_by_display_id: Table,
    /// Credits, with the index on keys, or on tenants.
    pub credit_of_key: Table,
    pub credit_of_tenant: Table,
    /// The same table, with the index on its own ids.
    pub credit_by_id: Table,
    pub charge: Table,
    pub access: Table,
    pub audit_entry: Table,
    pub touch: Table,
    pub heartbeat: Table,
    pub ledger: Table,
    pub ledger_difference: Oid,
    /// The row types of a verdict and of a response.
    pub verdict: RowType,
    pub response: RowType,
}

/// How many of the relations that are watched are row types.
const TYPES: usize = 2;

impl Tables {
    /// The tables whose rows say whether a key is valid and what it may do.
    pub fn that_decide(&self) -> [Table; 11] {
        [
            self.key,
            self.tenant,
            self.member,
            self.keyspace,
            self.prefix,
            self.scope,
            self.role,
            self.route,
            self.endpoint,
            self.answer,
            self.plan_feature,
        ]
    }

    /// Looks up the tables, watches them for changes, and checks that they have the columns that
    /// this library reads. `changes` is the value of `invalidation::changes` before that.
    pub fn resolve(changes: u64) -> Result<Tables> {
        use columns as of;
        let private = found(lookup::schema(PRIVATE), PRIVATE)?;
        let relation = |name: &CStr, schema: Oid| found(lookup::relation(schema, name), name);
        let table = |name: &CStr, index: &CStr, columns| -> Result<Table> {
            let (table, index) = (relation(name, private)?, relation(index, private)?);
            Ok(Table { table, index, columns, checked_at: changes })
        };
        let keyspace = table(c"keyspace", c"keyspace_pkey", of::keyspace::COLUMNS)?;
        let prefix =
            table(c"keyspace_prefix", c"keyspace_prefix_pkey", of::keyspace_prefix::COLUMNS)?;
        let scope = table(c"scope", c"scope_pkey", of::scope::COLUMNS)?;
        let role = table(c"role", c"role_pkey", of::role::COLUMNS)?;
        let route = table(c"route", c"route_pkey", of::route::COLUMNS)?;
        let endpoint = table(c"endpoint", c"endpoint_pkey", of::endpoint::COLUMNS)?;
        let answer = table(c"answer", c"answer_pkey", of::answer::COLUMNS)?;
        let plan_feature = table(c"plan_feature", c"plan_feature_pkey", of::plan_feature::COLUMNS)?;
        let tenant = table(c"tenant", c"tenant_pkey", of::tenant::COLUMNS)?;
        let member = table(c"member", c"member_pkey", of::member::COLUMNS)?;
        let key = table(c"key", c"key_digest_keyspace_key", of::key::COLUMNS)?;
        let credit_of_key = table(c"credit", c"credit_key_id_key", of::credit::COLUMNS)?;
        let charge = table(c"charge", c"charge_pkey", of::charge::COLUMNS)?;
        let access = table(c"access", c"access_role_level_tenant_id_key", of::access::COLUMNS)?;
        let audit_entry = table(c"audit_entry", c"audit_entry_pkey", of::audit_entry::COLUMNS)?;
        let touch = table(c"touch", c"touch_of_key", of::touch::COLUMNS)?;
        let heartbeat = table(c"heartbeat", c"heartbeat_pkey", of::heartbeat::COLUMNS)?;
        let ledger = table(c"ledger", c"ledger_pkey", of::ledger::COLUMNS)?;
        let ledger_difference = relation(c"ledger_difference", private)?;
        let all: [Table; WATCHED - TYPES] = [
            keyspace,
            prefix,
            scope,
            role,
            route,
            endpoint,
            answer,
            plan_feature,
            tenant,
            member,
            key,
            credit_of_key,
            charge,
            access,
            audit_entry,
            touch,
            heartbeat,
            ledger,
        ];
        // From here on changes are counted, also those during the checks below.
        let types: [Oid; TYPES] = [relation(c"verdict", private)?, relation(c"response", private)?];
        let mut watched = [Oid::INVALID; WATCHED];
        let relations = all.iter().map(|table| table.table).chain(types);
        watched.iter_mut().zip(relations).for_each(|(place, relation)| *place = relation);
        invalidation::watch(&watched);
        if !all.into_iter().all(|table| table.open().has_columns(table.columns)) {
            return Err(unfit());
        }
        Ok(Tables {
            keyspace,
            prefix,
            scope,
            role,
            route,
            endpoint,
            answer,
            plan_feature,
            tenant,
            tenant_by_name: Table {
                index: relation(c"tenant_keyspace_name_key", private)?,
                ..tenant
            },
            member,
            key,
            key_by_id: Table { index: relation(c"key_pkey", private)?, ..key },
            key_by_tenant: Table { index: relation(c"key_of_tenant", private)?, ..key },
            key_by_display_id: Table {
                index: relation(c"key_keyspace_display_id_key", private)?,
                ..key
            },
            credit_of_key,
            credit_of_tenant: Table {
                index: relation(c"credit_tenant_id_key", private)?,
                ..credit_of_key
            },
            credit_by_id: Table { index: relation(c"credit_pkey", private)?, ..credit_of_key },
            charge,
            access,
            audit_entry,
            touch,
            heartbeat,
            ledger,
            ledger_difference,
            verdict: row_type(c"verdict", private, columns::VERDICT)?,
            response: row_type(c"response", private, columns::RESPONSE)?,
        })
    }
}

/// The composite type with this name, if it has the columns that it is written with.
fn row_type(name: &CStr, schema: Oid, columns: &[Definition]) -> Result<RowType> {
    let kind = found(lookup::type_named(schema, name), name)?;
    RowType::find(kind, columns).ok_or_else(|| {
        let name = name.to_string_lossy();
        mismatch(&format!("the library does not fit the extension's type {name}"))
    })
}

fn found(oid: Option<Oid>, name: &CStr) -> Result<Oid> {
    oid.ok_or_else(|| {
        let name = name.to_string_lossy();
        mismatch(&format!("the extension's own {name} is missing"))
    })
}

/// The error for tables with other columns. Columns are read by their numbers and types, so a
/// library must not read tables of another version.
pub fn unfit() -> Error {
    mismatch("the library does not fit the extension's tables")
}

fn mismatch(message: &str) -> Error {
    Error::new(Code::Installation, message).hint(
        "Library and extension may be of different versions: see ALTER EXTENSION keysmith UPDATE.",
    )
}
