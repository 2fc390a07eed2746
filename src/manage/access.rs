//! `grant_access`, `revoke_access`: which role may call which functions.

use super::authority::{self, Caller};
use super::changes;
use super::keyspace::policy;
use super::level::{Functions, Level, functions};
use super::level_objects::objects;
use super::tenant::Tenant;
use super::{
    act_as, add_credits, alter, audit_proof, catalogue, doctor, drop_keyspace, endpoint, erase,
    events, key_scopes, keyspace, lifecycle, listing, metrics, mint, purge, removal, revocations,
    scanner, status, tenant, usage,
};
use crate::audit::{Act, EVERYWHERE, Subject};
use crate::catalog::Catalog;
use crate::catalog::policy::DEFAULT;
use crate::catalog::subscription::refusal;
use pg::call::{Call, must_not_be_null};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pg::subscription;
use pg::text;
use pgrx::pg_sys::{Datum, Oid};

functions! {
    keysmith_grant_access => grant_access: Admin;
    keysmith_revoke_access => revoke_access: Admin;
    keysmith_drop_keyspace => drop_keyspace: Admin;
}

/// The functions that check what they need. Each level that allows it has EXECUTE on them.
const CHECKED: [Functions; 23] = [
    FUNCTIONS,
    act_as::FUNCTIONS,
    add_credits::FUNCTIONS,
    alter::FUNCTIONS,
    audit_proof::FUNCTIONS,
    catalogue::FUNCTIONS,
    doctor::FUNCTIONS,
    endpoint::FUNCTIONS,
    erase::FUNCTIONS,
    events::FUNCTIONS,
    key_scopes::FUNCTIONS,
    keyspace::FUNCTIONS,
    lifecycle::FUNCTIONS,
    listing::FUNCTIONS,
    metrics::FUNCTIONS,
    mint::FUNCTIONS,
    purge::FUNCTIONS,
    removal::FUNCTIONS,
    revocations::FUNCTIONS,
    scanner::FUNCTIONS,
    status::FUNCTIONS,
    tenant::FUNCTIONS,
    usage::FUNCTIONS,
];

/// Only standbys call this function. Nobody calls triggers; `log_usage`, `hash_columns` and
/// `seal_row` are granted to roles that make triggers with them.
const INTERNAL: [&str; 1] = ["usage_collect"];

impl Level {
    fn read(call: &Call, n: usize) -> Result<Option<Level>> {
        let Some(name) = call.text(n, "level")? else { return Ok(None) };
        let level = Level::named(name.as_bytes());
        level.map(Some).ok_or_else(|| {
            Error::argument("level", "must be verifier, host, issuer, auditor or admin")
        })
    }

    /// Grants a role everything that comes with the level.
    fn grant(self, role: &Role) -> Result<()> {
        let objects = objects(self);
        let names = |names: &[&str]| names.iter().map(|name| String::from(*name)).collect();
        let functions: Vec<String> = names(objects.functions);
        let views: Vec<String> = names(&objects.views.concat());
        let checked = CHECKED.iter().copied().flatten().filter(|(_, needs)| self.allows(*needs));
        let checked: Vec<String> = checked.map(|(symbol, _)| String::from(*symbol)).collect();
        let found = spi::first(
            "SELECT keysmith_private.routines_of_level($1, $2, $3, $4, $5)",
            &[
                Param::boolean(self == Level::Admin),
                Param::texts(&functions),
                Param::texts(&INTERNAL.map(String::from)),
                Param::texts(&views),
                Param::texts(&checked),
            ],
            |row| row.text(1),
        )?;
        if let Some(signatures) = found {
            role.run(&format!("GRANT EXECUTE ON ROUTINE {signatures} TO "))?;
        }
        role.run("GRANT USAGE ON SCHEMA keysmith TO ")?;
        for view in views {
            role.run(&format!("GRANT SELECT ON keysmith.{view} TO "))?;
        }
        Ok(())
    }
}

/// A role whose access is granted or revoked.
struct Role {
    oid: Oid,
    /// Quoted for a statement. Bytes, as the name may be text in no encoding.
    name: Vec<u8>,
}

impl Role {
    fn read(call: &Call) -> Result<Role> {
        let role = call.datum(0).ok_or_else(|| must_not_be_null("role"))?;
        let oid = Oid::from(role.value() as u32);
        let name = Role::name(oid)?;
        name.map(|name| Role { oid, name }).ok_or_else(|| Error::argument("role", "must be a role"))
    }

    fn name(oid: Oid) -> Result<Option<Vec<u8>>> {
        spi::first(
            "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles WHERE oid = $1",
            &[Param::oid(oid)],
            |row| row.bytes(1),
        )
    }

    fn param(&self) -> Param<'static> {
        Param::oid(self.oid)
    }

    /// Whether there is a row of access, of any level or binding if none is given.
    fn has_access(&self, level: Option<Level>, binding: &Binding) -> Result<bool> {
        let found = spi::first(
            "SELECT FROM keysmith_private.access
             WHERE role = $1 AND ($2 IS NULL OR level = $2) AND ($3 IS NULL OR tenant_id = $3)
               AND ($4 IS NULL OR keyspace = $4)",
            &self.params(level, binding),
            |_| Some(()),
        )?;
        Ok(found.is_some())
    }

    fn params<'a>(&self, level: Option<Level>, binding: &'a Binding) -> [Param<'a>; 4] {
        [
            self.param(),
            Param::text_or_null(level.map(Level::name)),
            Param::uuid_or_null(binding.tenant.as_ref()),
            Param::text_or_null(binding.keyspace.as_deref()),
        ]
    }

    /// Runs a statement that ends with the role's name.
    fn run(&self, statement: &str) -> Result<()> {
        spi::execute_raw(&[statement.as_bytes(), &self.name])
    }

    /// Statements name the role. Its name may have become the name of another role meanwhile.
    fn check_name(&self) -> Result<()> {
        match Role::name(self.oid)? {
            Some(name) if name == self.name => Ok(()),
            _ => Err(Error::new(Code::Conflict, "the role was renamed meanwhile")),
        }
    }
}

/// The bounds of a level: a tenant, or a keyspace, or neither.
struct Binding {
    tenant: Option<[u8; 16]>,
    keyspace: Option<String>,
}

impl Binding {
    fn read(call: &Call, caller: &Caller) -> Result<Binding> {
        let (tenant, keyspace) = (call.text(2, "tenant")?, call.text(3, "keyspace")?);
        let Some(tenant) = tenant else {
            if let Some(keyspace) = &keyspace {
                policy(caller, keyspace)?;
            }
            return Ok(Binding { tenant: None, keyspace });
        };
        let keyspace = keyspace.unwrap_or_else(|| DEFAULT.into());
        policy(caller, &keyspace)?;
        let tenant = Tenant::find(caller, &tenant, &keyspace)?.id;
        Ok(Binding { tenant: Some(tenant), keyspace: None })
    }
}

fn grant_access(call: &Call) -> Result<Option<Datum>> {
    let level = Level::read(call, 1)?.ok_or_else(|| must_not_be_null("level"))?;
    if call.datum(2).is_some() && !matches!(level, Level::Issuer | Level::Host) {
        return Err(Error::argument("tenant", "must be null, except for issuers and hosts"));
    }
    if call.datum(2).is_none()
        && call.datum(3).is_some()
        && !matches!(level, Level::Verifier | Level::Host)
    {
        let rule = "must be null without a tenant, except for verifiers and hosts";
        return Err(Error::argument("keyspace", rule));
    }
    authority::act_here(needs::grant_access, |caller| {
        changes::one_at_a_time()?;
        let role = Role::read(call)?;
        let binding = Binding::read(call, caller)?;
        if let Some(access) = published()? {
            if !role.has_access(Some(level), &binding)? {
                return Err(refusal(access)?);
            }
            level.grant(&role)?;
            return role.check_name();
        }
        let act = Act::on(&caller.actor, EVERYWHERE, Subject::Access(role.oid))?;
        spi::execute(
            "INSERT INTO keysmith_private.access (role, level, tenant_id, keyspace)
             SELECT $1::regrole, $2, $3, $4 WHERE NOT EXISTS (
                 SELECT FROM keysmith_private.access
                 WHERE role = $1 AND level = $2 AND tenant_id IS NOT DISTINCT FROM $3
                   AND keyspace IS NOT DISTINCT FROM $4)",
            &role.params(Some(level), &binding),
        )?;
        level.grant(&role)?;
        role.check_name()?;
        act.done("grant_access")
    })?;
    Ok(None)
}

/// Takes away access from a role: all access, a level, or a tenant or keyspace of a level. The privileges of
/// its other levels stay.
fn revoke_access(call: &Call) -> Result<Option<Datum>> {
    let level = Level::read(call, 1)?;
    authority::act_here(needs::revoke_access, |caller| {
        changes::one_at_a_time()?;
        let role = Role::read(call)?;
        let binding = Binding::read(call, caller)?;
        if let Some(access) = published()? {
            if role.has_access(level, &binding)? {
                return Err(refusal(access)?);
            }
            return keep_levels(&role);
        }
        let act = Act::on(&caller.actor, EVERYWHERE, Subject::Access(role.oid))?;
        let removed = spi::execute(
            "DELETE FROM keysmith_private.access
             WHERE role = $1 AND ($2 IS NULL OR level = $2) AND ($3 IS NULL OR tenant_id = $3)
               AND ($4 IS NULL OR keyspace = $4)",
            &role.params(level, &binding),
        )?;
        if removed == 0 {
            let name = text::name_of_role(role.oid);
            return Err(Error::not_found(format!("role {name:?} has no such access")));
        }
        keep_levels(&role)?;
        act.done("revoke_access")
    })?;
    Ok(None)
}

fn drop_keyspace(call: &Call) -> Result<Option<Datum>> {
    drop_keyspace::run(call, needs::drop_keyspace, unbind)
}

/// Takes away the access that is bound to a keyspace or its tenants. The roles lose the privileges too:
/// a role that has them, and no row, is bound to nothing.
fn unbind(caller: &Caller, keyspace: &str) -> Result<()> {
    let bound = spi::query_now(
        "SELECT DISTINCT a.role::oid
         FROM keysmith_private.access a LEFT JOIN keysmith_private.tenant t USING (tenant_id)
         WHERE coalesce(a.keyspace, t.keyspace) = $1 ORDER BY 1",
        &[Param::text(keyspace)],
        |rows| rows.iter().filter_map(|row| row.oid(1)).collect::<Vec<_>>(),
    )?;
    for oid in bound {
        let act = Act::on(&caller.actor, EVERYWHERE, Subject::Access(oid))?;
        spi::execute(
            "DELETE FROM keysmith_private.access a
             WHERE a.role = $1 AND (a.keyspace = $2 OR a.tenant_id IN (
                 SELECT t.tenant_id FROM keysmith_private.tenant t WHERE t.keyspace = $2))",
            &[Param::oid(oid), Param::text(keyspace)],
        )?;
        // A role that was dropped has left its row.
        if let Some(name) = Role::name(oid)? {
            keep_levels(&Role { oid, name })?;
        }
        act.done("revoke_access")?;
    }
    Ok(())
}

/// Leaves the role only the privileges of its levels.
fn keep_levels(role: &Role) -> Result<()> {
    take_all(role)?;
    let left = spi::all(
        "SELECT DISTINCT level FROM keysmith_private.access WHERE role = $1",
        &[role.param()],
        |row| row.text(1),
    )?;
    for level in Level::ALL.into_iter().filter(|level| left.iter().any(|left| left == level.name()))
    {
        level.grant(role)?;
    }
    role.check_name()
}

/// The table of access, if a subscription has it. Then its rows are the publisher's to change, but
/// privileges don't replicate: here, both functions make them fit the rows.
fn published() -> Result<Option<Oid>> {
    let access = Catalog::open()?.tables.access.table;
    Ok(subscription::has(access).then_some(access))
}

/// Takes away every privilege that is granted to the role itself. It changes only objects with such
/// a grant. Others may change the rest at the same time, above all partitions.
fn take_all(role: &Role) -> Result<()> {
    let given = spi::all(
        "SELECT o FROM keysmith_private.objects_granted_to($1) AS o",
        &[role.param()],
        |row| row.text(1),
    )?;
    for object in given {
        role.run(&format!("REVOKE ALL ON {object} FROM "))?;
    }
    Ok(())
}
