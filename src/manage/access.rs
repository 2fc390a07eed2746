//! `grant_access`, `revoke_access`: who may call what.

use super::authority::{self, Caller, Needs};
use super::changes;
use super::keyspace::policy;
use super::tenant::Tenant;
use crate::audit::{Act, EVERYWHERE, Subject};
use pg::call::{Call, must_not_be_null, sql_functions};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pg::text;
use pg::varlena;
use pgrx::pg_sys::{Datum, Oid};

sql_functions! {
    keysmith_grant_access => grant_access;
    keysmith_revoke_access => revoke_access;
    keysmith_sees_everything => sees_everything;
    keysmith_own_tenants => own_tenants;
}

/// What a level comes with. Everything else is for administrators alone.
struct Level {
    name: &'static str,
    functions: &'static [&'static str],
    views: &'static [&'static str],
}

const LEVELS: [Level; 4] = [
    Level {
        name: "verifier",
        functions: &[
            "verify",
            "verify_digest",
            "verify_many",
            "authenticate",
            "pre_request",
            "client_ip",
            "sign_out",
            "log_request",
            "event_channel",
            // These act with the caller's rights on the caller's tables.
            "isolate",
            "release",
            "track",
            "untrack",
            "log_usage",
            "protect",
            "unprotect",
            "protect_existing",
            "hash_columns",
            "seal_rows",
            "unseal_rows",
            "verify_rows",
            "seal_row",
            // Values beside their digests: whoever may ask can try values.
            "digest",
            "digests",
            "matches",
            "is_digest",
            "hashing_state",
        ],
        views: &["hashing_progress"],
    },
    Level {
        name: "issuer",
        functions: &[
            "mint",
            "import_key",
            "alter_key",
            "rotate",
            "regenerate",
            "disable",
            "enable",
            "revoke",
            "report_leak",
            "list_keys",
            "usage_logs",
            "usage_chart",
            "blast_radius",
            "wait_for_replay",
            "sign_out",
            "sees_everything",
            "own_tenants",
        ],
        views: USAGE,
    },
    Level {
        name: "auditor",
        functions: &[
            "list_keys",
            "explain_verify",
            "audit_verify",
            "audit_heads",
            "revocations_since",
            "status",
            "doctor",
            "scanner_patterns",
            "scopes_used",
            "hashing_state",
            "limit_status",
            "usage_status",
            "flush_usage",
            "usage_logs",
            "usage_chart",
            "blast_radius",
            "event_channel",
            "client_ip",
            "sees_everything",
            "own_tenants",
        ],
        views: VIEWS,
    },
    Level { name: "admin", functions: &["log_usage", "hash_columns", "seal_row"], views: VIEWS },
];

/// What issuers see of their tenants, and others of all.
const USAGE: &[&str] = &[
    "keys",
    "usage",
    "usage_hourly",
    "usage_daily",
    "usage_endpoints",
    "top_keys",
    "top_refusals",
    "touches",
    "tenants",
    "expiring_soon",
    "stale_keys",
    "recent_refusals",
];

const VIEWS: &[&str] = &[
    "keys",
    "routes",
    "audit",
    "usage",
    "usage_hourly",
    "usage_daily",
    "usage_endpoints",
    "top_keys",
    "top_refusals",
    "touches",
    "tenants",
    "expiring_soon",
    "stale_keys",
    "recent_refusals",
    "overprivileged_keys",
    "hashing_progress",
    "isolation",
];

/// What standbys call, and nobody else. Nor does anyone call triggers: of those, `log_usage`,
/// `hash_columns` and `seal_row` are for making triggers with.
const INTERNAL: [&str; 1] = ["usage_collect"];

impl Level {
    fn read(call: &Call, n: usize) -> Result<Option<&'static Level>> {
        let Some(name) = call.text(n, "level")? else { return Ok(None) };
        let known = LEVELS.iter().find(|level| level.name == name);
        known
            .map(Some)
            .ok_or_else(|| Error::argument("level", "must be verifier, issuer, auditor or admin"))
    }

    /// Gives a role all that the level comes with.
    fn grant(&self, role: &Role) -> Result<()> {
        let functions: Vec<String> = self.functions.iter().map(|name| (*name).into()).collect();
        let views: Vec<String> = self.views.iter().map(|name| (*name).into()).collect();
        let found = spi::first(
            "SELECT keysmith_private.routines_of_level($1, $2, $3, $4)",
            &[
                Param::boolean(self.name == "admin"),
                Param::texts(&functions),
                Param::texts(&INTERNAL.map(String::from)),
                Param::texts(&views),
            ],
            |row| row.text(1),
        )?;
        if let Some(signatures) = found {
            role.run(&format!("GRANT EXECUTE ON ROUTINE {signatures} TO "))?;
        }
        role.run("GRANT USAGE ON SCHEMA keysmith TO ")?;
        for view in self.views {
            role.run(&format!("GRANT SELECT ON keysmith.{view} TO "))?;
        }
        Ok(())
    }
}

/// A role that is given access, or has it taken away.
struct Role {
    oid: Oid,
    /// Ready for a statement: bytes, as it may be text in no encoding.
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

    /// Runs a statement that ends with the role's name.
    fn run(&self, statement: &str) -> Result<()> {
        spi::execute_raw(&[statement.as_bytes(), &self.name])
    }

    /// Statements name the role, and names can be given to others meanwhile.
    fn check_name(&self) -> Result<()> {
        match Role::name(self.oid)? {
            Some(name) if name == self.name => Ok(()),
            _ => Err(Error::new(Code::Conflict, "the role was renamed meanwhile")),
        }
    }
}

/// The tenant that an issuer is bound to, if any is named.
fn tenant(call: &Call, caller: &Caller) -> Result<Option<[u8; 16]>> {
    let Some(tenant) = call.text(2, "tenant")? else { return Ok(None) };
    let keyspace = call.required_text(3, "keyspace")?;
    policy(caller, &keyspace)?;
    Tenant::find(caller, &tenant, &keyspace).map(|tenant| Some(tenant.id))
}

fn grant_access(call: &Call) -> Result<Option<Datum>> {
    let level = Level::read(call, 1)?.ok_or_else(|| must_not_be_null("level"))?;
    if call.datum(2).is_some() && level.name != "issuer" {
        return Err(Error::argument("tenant", "must be null, except for issuers"));
    }
    authority::act(Needs::Admin, |caller| {
        changes::one_at_a_time()?;
        let role = Role::read(call)?;
        let tenant = tenant(call, caller)?;
        let act = Act::on(&caller.actor, EVERYWHERE, Subject::Access(role.oid))?;
        spi::execute(
            "INSERT INTO keysmith_private.access (role, level, tenant_id)
             SELECT $1::regrole, $2, $3 WHERE NOT EXISTS (
                 SELECT FROM keysmith_private.access
                 WHERE role = $1 AND level = $2 AND tenant_id IS NOT DISTINCT FROM $3)",
            &[role.param(), Param::text(level.name), Param::uuid_or_null(tenant.as_ref())],
        )?;
        level.grant(&role)?;
        role.check_name()?;
        act.done("grant_access")
    })?;
    Ok(None)
}

/// Takes away what a role was given: all of it, a level, or a tenant of an issuer.
/// What other levels come with stays.
fn revoke_access(call: &Call) -> Result<Option<Datum>> {
    let level = Level::read(call, 1)?;
    authority::act(Needs::Admin, |caller| {
        changes::one_at_a_time()?;
        let role = Role::read(call)?;
        let tenant = tenant(call, caller)?;
        let act = Act::on(&caller.actor, EVERYWHERE, Subject::Access(role.oid))?;
        let removed = spi::execute(
            "DELETE FROM keysmith_private.access
             WHERE role = $1 AND ($2 IS NULL OR level = $2) AND ($3 IS NULL OR tenant_id = $3)",
            &[
                role.param(),
                Param::text_or_null(level.map(|level| level.name)),
                Param::uuid_or_null(tenant.as_ref()),
            ],
        )?;
        if removed == 0 {
            let name = text::name_of_role(role.oid);
            return Err(Error::not_found(format!("role {name:?} has no such access")));
        }
        take_all(&role)?;
        let left = spi::all(
            "SELECT DISTINCT level FROM keysmith_private.access WHERE role = $1",
            &[role.param()],
            |row| row.text(1),
        )?;
        for level in LEVELS.iter().filter(|level| left.iter().any(|left| left == level.name)) {
            level.grant(&role)?;
        }
        role.check_name()?;
        act.done("revoke_access")
    })?;
    Ok(None)
}

/// Takes away every privilege that a role itself has. Only what it was given is touched:
/// the rest, partitions above all, may be changed by others at the same time.
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

fn sees_everything(_: &Call) -> Result<Option<Datum>> {
    Ok(Some(Datum::from(authority::sight()?.tenants.is_none())))
}

fn own_tenants(_: &Call) -> Result<Option<Datum>> {
    let tenants = authority::sight()?.tenants.unwrap_or_default();
    Ok(Some(varlena::uuid_array(&tenants)))
}
