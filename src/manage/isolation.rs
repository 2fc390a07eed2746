//! `isolate` and `release`: row-level security for applications' tables.
//!
//! Two policies hold the same condition. The restrictive one bounds what other policies
//! permit; the permissive one permits what it leaves. So a table that loses one of them is
//! closed, or still shows each tenant its own rows. It is open only where a policy of someone
//! else permits more, and the restrictive one is gone.

use super::statements::LockedTable;
use crate::catalog::Catalog;
use keysmith_core::policy::name::{IDENTIFIER_RULE, is_identifier};
use pg::call::{Call, sql_functions};
use pg::error::{Error, Result};
use pg::spi::{self, Param};
use pg::user_table::{ACCESS_EXCLUSIVE, TableRight, UserTable};
use pg::{lookup, types};
use pgrx::pg_sys::{self, Datum, Oid};

sql_functions! {
    keysmith_isolate => isolate;
    keysmith_release => release;
}

const TENANT: &str = "keysmith_tenant";
const ACCESS: &str = "keysmith_access";

fn isolate(call: &Call) -> Result<Option<Datum>> {
    let tenant_column = call.required_text(1, "tenant_column")?;
    let keyspace = call.text(2, "keyspace")?;
    let environment_column = call.text(3, "environment_column")?;
    let strict = Param::boolean(call.boolean(4, "strict")?);
    if keyspace.as_deref().is_some_and(|keyspace| !is_identifier(keyspace)) {
        return Err(Error::argument("keyspace", IDENTIFIER_RULE));
    }
    let table = claim(call)?;
    if table.is_temporary() {
        return Err(Error::argument("relation", "must be a table that is not temporary"));
    }
    let tenant = Column::find(&table, "tenant_column", &tenant_column)?;
    if tenant.is_text() && keyspace.is_none() {
        return Err(Error::argument("keyspace", "must be given where tenants are named by text")
            .hint("Two keyspaces may each have a tenant of that name."));
    } else if !tenant.is_text() && tenant.kind != pg_sys::UUIDOID {
        return Err(tenant.wrong("uuid or text"));
    }
    let environment = environment_column
        .map(|name| Column::find(&table, "environment_column", &name))
        .transpose()?;
    if let Some(column) = environment.as_ref().filter(|column| !column.is_text()) {
        return Err(column.wrong("text"));
    }

    let table = LockedTable::of(table);
    if table.is_so("SELECT $1 IN (SELECT keysmith_private.distributed_tables())", &[])? {
        return Err(Error::argument("relation", "must be no table that Citus distributes")
            .hint("Citus does not keep policies on a table's parts."));
    }
    let before = Before::of(&table)?;
    let tenant = Param::smallint(tenant.number);
    let keyspace = Param::text_or_null(keyspace.as_deref());
    let environment = Param::smallint_or_null(environment.map(|column| column.number));
    let condition = table.look(
        "SELECT keysmith_private.isolation_condition($1, $2, $3, $4, $5)",
        &[tenant, keyspace, environment, strict],
        |row| row.text(1).unwrap_or_default(),
    )?;
    make_policy(&table, TENANT, "RESTRICTIVE", &condition)?;
    // Where policies of others permit rows, they say which.
    let has_access = table.is_so(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = $1
                            AND p.polpermissive AND p.polname <> $2)",
        &[Param::text(ACCESS)],
    )?;
    if has_access {
        make_policy(&table, ACCESS, "PERMISSIVE", &condition)?;
    } else {
        drop_policy(&table, ACCESS)?;
    }
    set_row_security(&table, true, true)?;
    Catalog::open()?.as_owner(|| {
        spi::execute(
            "SELECT keysmith_private.note_isolated($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                table.param(),
                tenant,
                keyspace,
                environment,
                strict,
                Param::boolean(has_access),
                Param::boolean(before.was_enabled),
                Param::boolean(before.was_forced),
            ],
        )?;
        spi::execute(
            "SELECT keysmith_private.tell_of_isolation($1, $2)",
            &[table.param(), tenant],
        )?;
        Ok(())
    })?;
    Ok(None)
}

fn release(call: &Call) -> Result<Option<Datum>> {
    let table = LockedTable::of(claim(call)?);
    let before = Before::of(&table)?;
    if !before.is_isolated {
        return Err(Error::not_found(format!("table {} is not isolated", table.name())));
    }
    drop_policy(&table, TENANT)?;
    drop_policy(&table, ACCESS)?;
    // A table that has other policies keeps its row security: they were made for it.
    let has_policies = table
        .is_so("SELECT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = $1)", &[])?;
    set_row_security(&table, before.was_enabled || has_policies, before.was_forced)?;
    Catalog::open()?.as_owner(|| {
        spi::execute("SELECT keysmith_private.forget_isolated($1)", &[table.param()])?;
        Ok(())
    })?;
    Ok(None)
}

fn claim(call: &Call) -> Result<UserTable> {
    let table = UserTable::claim(call.datum(0), ACCESS_EXCLUSIVE, TableRight::Ownership)?;
    table.must_not_be_catalog()?;
    Ok(table)
}

/// The state of the table before the first call of `isolate`.
#[derive(Default)]
struct Before {
    is_isolated: bool,
    was_enabled: bool,
    was_forced: bool,
}

impl Before {
    fn of(table: &LockedTable) -> Result<Before> {
        table.look(
            "SELECT b.is_isolated, b.was_enabled, b.was_forced
             FROM keysmith_private.before_isolation($1) b",
            &[],
            |row| Before {
                is_isolated: row.boolean(1),
                was_enabled: row.boolean(2),
                was_forced: row.boolean(3),
            },
        )
    }
}

fn make_policy(table: &LockedTable, policy: &str, kind: &str, condition: &str) -> Result<()> {
    let is_made = "SELECT keysmith_private.policy_fault($1, $2::name, $3, $4) IS NULL";
    let params =
        [Param::text(policy), Param::boolean(kind == "PERMISSIVE"), Param::text(condition)];
    if !table.is_so(is_made, &params)? {
        drop_policy(table, policy)?;
    }
    table.change(is_made, &params, |name| {
        format!(
            "CREATE POLICY {policy} ON {name} AS {kind} USING ({condition}) WITH CHECK ({condition})"
        )
    })
}

fn drop_policy(table: &LockedTable, policy: &str) -> Result<()> {
    let is_gone = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_policy p
                                      WHERE p.polrelid = $1 AND p.polname = $2)";
    table.change(is_gone, &[Param::text(policy)], |name| format!("DROP POLICY {policy} ON {name}"))
}

fn set_row_security(table: &LockedTable, enabled: bool, forced: bool) -> Result<()> {
    table.change(
        "SELECT c.relrowsecurity = $2 FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[Param::boolean(enabled)],
        |name| {
            let verb = if enabled { "ENABLE" } else { "DISABLE" };
            format!("ALTER TABLE {name} {verb} ROW LEVEL SECURITY")
        },
    )?;
    table.change(
        "SELECT c.relforcerowsecurity = $2 FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[Param::boolean(forced)],
        |name| {
            let verb = if forced { "FORCE" } else { "NO FORCE" };
            format!("ALTER TABLE {name} {verb} ROW LEVEL SECURITY")
        },
    )
}

/// A column of the table. Its type can't change while the table is locked.
struct Column {
    argument: &'static str,
    /// With the table's, for messages.
    name: String,
    number: i16,
    /// Its type, or what a domain is made of.
    kind: Oid,
}

impl Column {
    fn find(of: &UserTable, argument: &'static str, name: &str) -> Result<Column> {
        let Some(column) = of.column(name) else {
            let rule = format!("must be a column of {}, which {name:?} is not", of.name());
            return Err(Error::argument(argument, rule));
        };
        let is_deterministic = lookup::is_deterministic(column.attcollation);
        let kind = types::base(column.atttypid);
        if !is_deterministic {
            return Err(Error::argument(argument, "must have a deterministic collation")
                .hint("By another, two tenants' names may be equal."));
        }
        let number = column.attnum;
        Ok(Column { argument, name: format!("{}.{name}", of.name()), number, kind })
    }

    fn is_text(&self) -> bool {
        [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&self.kind)
    }

    fn wrong(&self, types: &str) -> Error {
        let kind = lookup::type_name(self.kind);
        Error::argument(
            self.argument,
            format!("must be of type {types}, and {} is {kind}", self.name),
        )
    }
}
