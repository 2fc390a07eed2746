//! Tenants and their members.

use super::authority::{self, Caller};
use super::credits::{self, CreditHolder, Credits};
use super::errors;
use super::field::{Document, Grants, Lifetime, Name, Networks};
use super::json;
use super::key;
use super::keyspace::policy;
use super::level::{Needs, functions};
use super::limits::{self, Limits};
use super::metadata;
use super::options;
use super::patch::{self, Patch};
use crate::audit::{Act, Subject};
use crate::catalog::Catalog;
use crate::catalog::columns::tenant as column;
use crate::catalog::policy::Policy;
use crate::catalog::tables::Table;
use crate::usage::session::worker_slot;
use keysmith_core::policy::name::{NAME_RULE, is_name};
use pg::attempt::unless_twice;
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::notice::warning;
use pg::scan::{Room, ScanKey, Snapshot, server_text};
use pg::spi::{self, Param, Saved, saved};
use pg::text;
use pgrx::pg_sys::Datum;
use serde::{Deserialize, Serialize};

functions! {
    keysmith_create_tenant => create_tenant: Host;
    keysmith_alter_tenant => alter_tenant: Admin;
    keysmith_rename_tenant => rename_tenant: Admin;
    keysmith_suspend_tenant => suspend_tenant: Admin;
    keysmith_resume_tenant => resume_tenant: Admin;
    keysmith_set_member => set_member: Host;
    keysmith_remove_member => remove_member: Host;
}

/// A tenant that must be there.
pub struct Tenant {
    pub id: [u8; 16],
    pub plan: Option<String>,
    /// In microseconds.
    pub max_lifetime: Option<i64>,
}

impl Tenant {
    /// One that the caller does not reach is one that is not there.
    pub fn find(caller: &Caller, tenant: &str, keyspace: &str) -> Result<Tenant> {
        Tenant::named(tenant, keyspace)?
            .filter(|found| caller.reaches(&found.id, keyspace))
            .ok_or_else(|| unknown(tenant, keyspace))
    }

    fn named(name: &str, keyspace: &str) -> Result<Option<Tenant>> {
        let (space, name) = (server_text(keyspace), server_text(name));
        let by_name = [ScanKey::text(column::keyspace, &space), ScanKey::text(column::name, &name)];
        Ok(Tenant::read(Catalog::open()?.tables.tenant_by_name, by_name))
    }

    /// The same, its row locked: acts on a tenant take turns. It may have been renamed during the
    /// wait.
    pub fn lock(caller: &Caller, tenant: &str, keyspace: &str) -> Result<Tenant> {
        let found = Tenant::find(caller, tenant, keyspace)?;
        let locked = spi::execute(
            saved!(
                "SELECT FROM keysmith_private.tenant WHERE tenant_id = $1 AND name = $2
                 FOR NO KEY UPDATE"
            ),
            &[Param::uuid(&found.id), Param::text(tenant)],
        )?;
        if locked == 0 {
            return Err(unknown(tenant, keyspace));
        }
        Ok(found)
    }

    /// Checks that the tenant still has the name that it was found by. The caller has made a row that
    /// refers to it: until then, it may have been renamed or erased.
    pub fn must_be_named(&self, tenant: &str, keyspace: &str) -> Result<()> {
        let found = Tenant::named(tenant, keyspace)?;
        found
            .filter(|found| found.id == self.id)
            .map(|_| ())
            .ok_or_else(|| unknown(tenant, keyspace))
    }

    /// The tenant of a key.
    pub fn with_id(id: &[u8; 16]) -> Result<Tenant> {
        Tenant::read(Catalog::open()?.tables.tenant, [ScanKey::uuid(column::tenant_id, id)])
            .ok_or_else(|| Error::not_found("the tenant does not exist"))
    }

    fn read<const N: usize>(table: Table, keys: [ScanKey; N]) -> Option<Tenant> {
        let (tenants, snapshot) = (table.open(), Snapshot::now());
        let room = Room::new();
        let row = tenants.first(&snapshot, &room, keys, |_| true)?;
        Some(Tenant {
            id: row.uuid(column::tenant_id)?,
            plan: row.text(column::plan),
            max_lifetime: row.microseconds(column::max_lifetime),
        })
    }

    /// Checks that the tenant's plan has a feature, if it is asked for.
    pub fn check_feature(&self, policy: &Policy, feature: &str, is_used: bool) -> Result<()> {
        let plan = self.plan.as_deref().map(text::to_server);
        if !is_used || policy.has_feature(plan.as_ref().map(|plan| plan.as_bytes()), feature) {
            return Ok(());
        }
        let plan =
            self.plan.as_deref().map_or("no plan".into(), |plan| format!("the plan {plan:?}"));
        Err(Error::new(
            Code::NotAllowed,
            format!("{feature} can't be used by a tenant with {plan}"),
        )
        .hint("The keyspace's plan_features say which plans have it."))
    }
}

pub fn unknown(tenant: &str, keyspace: &str) -> Error {
    let shown: String = tenant.chars().take(200).collect();
    Error::not_found(format!("tenant {shown:?} does not exist in keyspace {keyspace:?}"))
}

fn create_tenant(call: &Call) -> Result<Option<Datum>> {
    let name = call.required_text(0, "name")?;
    let keyspace = call.required_text(1, "keyspace")?;
    let plan = call.text(2, "plan")?;
    let metadata = metadata::argument(call, 3)?;
    let limits = limits::given(call, 4)?;
    let credits: Option<Credits> = json::argument(call, 5, "credits")?;
    let tenant_id = call.datum(6).map(|_| call.uuid(6, "tenant_id")).transpose()?;
    let if_not_exists = call.boolean(7, "if_not_exists")?;
    let max_lifetime: Option<Lifetime> = options::interval(call, 8, "max_lifetime")?
        .map(|interval| json::from_value("max_lifetime", interval))
        .transpose()?;
    let max_lifetime = max_lifetime.map(|lifetime| lifetime.text());
    let allowlist = key::allowlist(call, 9)?;
    let scopes = call.datum(10).map(|_| call.strings(10, "scopes")).transpose()?;
    let scopes = scopes.map(key::distinct);
    if !is_name(&name) {
        return Err(Error::argument("name", NAME_RULE));
    }
    check_plan(plan.as_deref())?;
    if tenant_id == Some([0; 16]) {
        return Err(Error::argument("tenant_id", "must not be the nil UUID"));
    }
    let tenant_id = authority::act(needs::create_tenant, |caller| {
        caller.must_host_all_of(&keyspace)?;
        key::check_known_grants(
            &*policy(caller, &keyspace)?,
            scopes.as_deref().unwrap_or_default(),
        )?;
        let found = spi::first(
            saved!(
                "INSERT INTO keysmith_private.tenant (
                     keyspace, name, plan, metadata, limits, tenant_id, max_lifetime, allowlist,
                     scopes)
                 VALUES ($1, $2, $3, coalesce($4, '{}'), $5,
                         coalesce($6, pg_catalog.gen_random_uuid()), $7::interval,
                         nullif($8::cidr[], '{}'), $9)
                 ON CONFLICT DO NOTHING RETURNING tenant_id"
            ),
            &[
                Param::text(&keyspace),
                Param::text(&name),
                Param::text_or_null(plan.as_deref()),
                Param::jsonb(metadata),
                Param::text_or_null(limits.as_deref()),
                Param::uuid_or_null(tenant_id.as_ref()),
                Param::text_or_null(max_lifetime.as_deref()),
                Param::texts(&allowlist),
                Param::texts_or_null(scopes.as_deref()),
            ],
            |row| row.uuid(1),
        )?;
        let Some(created) = found else {
            return existing(&name, &keyspace, tenant_id, if_not_exists);
        };
        let act = Act::made(&caller.actor, &keyspace, Subject::Tenant(&created));
        if credits.is_some() {
            credits::give(CreditHolder::Tenant(&created), credits.as_ref())?;
        }
        act.noted("create_tenant")?;
        Ok(created)
    })?;
    Ok(Some(pg::datum::uuid(&tenant_id)))
}

/// The tenant that keeps one from being made, if the caller takes that one.
fn existing(
    name: &str,
    keyspace: &str,
    tenant_id: Option<[u8; 16]>,
    if_not_exists: bool,
) -> Result<[u8; 16]> {
    let found = Tenant::named(name, keyspace)?;
    Err(match (found, tenant_id) {
        (Some(found), _) if if_not_exists && tenant_id.is_none_or(|id| id == found.id) => {
            return Ok(found.id);
        }
        (Some(_), Some(_)) if if_not_exists => Error::new(
            Code::Conflict,
            format!("tenant {name:?} of keyspace {keyspace:?} has another tenant_id"),
        ),
        (Some(_), _) => already_exists(name, keyspace),
        (None, Some(id)) => {
            let id = errors::shown(&id);
            Error::new(Code::Conflict, format!("tenant_id {id} is the id of another tenant"))
        }
        (None, None) => {
            Error::new(Code::Conflict, format!("tenant {name:?} was renamed meanwhile"))
                .hint("Nothing was changed. Call the function again.")
        }
    })
}

pub fn already_exists(name: &str, keyspace: &str) -> Error {
    let message = format!("tenant {name:?} already exists in keyspace {keyspace:?}");
    Error::new(Code::Conflict, message)
}

fn check_plan(plan: Option<&str>) -> Result<()> {
    match plan {
        Some(plan) if !is_name(plan) => Err(Error::argument("plan", NAME_RULE)),
        _ => Ok(()),
    }
}

/// What `alter_tenant` changes.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    plan: Patch<Name>,
    #[serde(skip_serializing)]
    metadata: Patch<Document>,
    limits: Patch<Limits>,
    #[serde(skip_serializing)]
    credits: Patch<Credits>,
    max_lifetime: Patch<Lifetime>,
    allowlist: Patch<Networks>,
    scopes: Patch<Grants>,
}

fn alter_tenant(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let changes: Changes = json::required(call, 1, "changes")?;
    let keyspace = call.required_text(2, "keyspace")?;
    let metadata = metadata::assignment(call, 1, &changes.metadata)?;
    limits::check_kept(&changes.limits)?;
    authority::act(needs::alter_tenant, |caller| {
        let policy = policy(caller, &keyspace)?;
        if let Some(Grants(scopes)) = changes.scopes.value() {
            key::check_known_grants(&policy, scopes).map_err(|error| error.within("changes"))?;
        }
        let id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        let act = Act::on(&caller.actor, &keyspace, Subject::Tenant(&id))?;
        patch::update(
            "keysmith_private.tenant",
            ("tenant_id", Param::uuid(&id)),
            patch::columns(&changes)?,
            metadata,
        )?;
        if let Some(credits) = changes.credits.change() {
            credits::set(caller, CreditHolder::Tenant(&id), credits)
                .map_err(|error| error.within("changes"))?;
        }
        if changes.max_lifetime.value().is_some() {
            worker_slot::want();
        }
        act.done("alter_tenant")
    })?;
    Ok(None)
}

fn rename_tenant(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let new_name = call.required_text(1, "new_name")?;
    let keyspace = call.required_text(2, "keyspace")?;
    if !is_name(&new_name) {
        return Err(Error::argument("new_name", NAME_RULE));
    }
    authority::act(needs::rename_tenant, |caller| {
        policy(caller, &keyspace)?;
        let id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        if new_name == tenant {
            return Ok(());
        }
        let act = Act::on(&caller.actor, &keyspace, Subject::Tenant(&id))?;
        let renamed = unless_twice(|| {
            spi::execute(
                saved!("UPDATE keysmith_private.tenant SET name = $2 WHERE tenant_id = $1"),
                &[Param::uuid(&id), Param::text(&new_name)],
            )
        });
        renamed.ok_or_else(|| already_exists(&new_name, &keyspace))??;
        warn_of_names(&keyspace)?;
        act.done("rename_tenant")
    })?;
    Ok(None)
}

/// Rows of isolated tables may name the tenant. They keep the old name, which another tenant may be
/// given.
fn warn_of_names(keyspace: &str) -> Result<()> {
    if let Some(tables) = tables_with_names(keyspace)? {
        let message = format!("rows that name the tenant keep its old name: {tables}");
        let hint =
            "Change these rows in the same transaction, or isolate by a column of type uuid.";
        warning(message, Some(hint.into()));
    }
    Ok(())
}

/// The isolated tables that name tenants of a keyspace by text.
pub fn tables_with_names(keyspace: &str) -> Result<Option<String>> {
    spi::first(
        saved!(
            "SELECT pg_catalog.string_agg(i.found::regclass::text, ', ' ORDER BY i.found)
             FROM keysmith_private.isolated i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.found
                 AND CASE WHEN i.is_same THEN a.attnum = i.tenant_number
                          ELSE a.attname = i.tenant_column END
             WHERE coalesce(i.keyspace, $1) = $1
               AND keysmith_private.base_type(a.atttypid) <> 'uuid'::regtype"
        ),
        &[Param::text(keyspace)],
        |row| row.text(1),
    )
}

fn suspend_tenant(call: &Call) -> Result<Option<Datum>> {
    let reason = call.text(2, "reason")?;
    key::check_length("reason", reason.as_deref(), key::MAX_REASON)?;
    change_tenant(
        call,
        needs::suspend_tenant,
        "suspend",
        saved!(
            "UPDATE keysmith_private.tenant SET
                 suspended_at = coalesce(suspended_at, pg_catalog.clock_timestamp()),
                 suspended_reason = coalesce($2, suspended_reason)
             WHERE tenant_id = $1"
        ),
        Some(Param::text_or_null(reason.as_deref())),
    )
}

fn resume_tenant(call: &Call) -> Result<Option<Datum>> {
    change_tenant(
        call,
        needs::resume_tenant,
        "resume",
        saved!(
            "UPDATE keysmith_private.tenant SET suspended_at = NULL, suspended_reason = NULL
             WHERE tenant_id = $1"
        ),
        None,
    )
}

/// An act on one tenant, whose first arguments are its name and keyspace.
fn change_tenant(
    call: &Call,
    needs: Needs,
    action: &str,
    statement: &'static Saved,
    more: Option<Param>,
) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let keyspace = call.required_text(1, "keyspace")?;
    authority::act(needs, |caller| {
        policy(caller, &keyspace)?;
        let id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        let act = Act::on(&caller.actor, &keyspace, Subject::Tenant(&id))?;
        let mut params = vec![Param::uuid(&id)];
        params.extend(more);
        spi::execute(statement, &params)?;
        act.done(action)
    })?;
    Ok(None)
}

fn set_member(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let member = call.required_text(1, "member")?;
    let role = call.required_text(2, "role")?;
    let keyspace = call.required_text(3, "keyspace")?;
    if !is_name(&member) {
        return Err(Error::argument("member", NAME_RULE));
    }
    authority::act(needs::set_member, |caller| {
        caller.must_host_some_of(&keyspace)?;
        key::check_role(&*policy(caller, &keyspace)?, Some(&role), &keyspace)?;
        let tenant_id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        let subject = Subject::Member { tenant_id: &tenant_id, member: &member };
        let act = Act::on(&caller.actor, &keyspace, subject)?;
        spi::execute(
            saved!(
                "INSERT INTO keysmith_private.member (tenant_id, keyspace, member, role)
                 VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant_id, member, keyspace) DO UPDATE SET role = excluded.role"
            ),
            &[
                Param::uuid(&tenant_id),
                Param::text(&keyspace),
                Param::text(&member),
                Param::text(&role),
            ],
        )?;
        act.done("set_member")
    })?;
    Ok(None)
}

fn remove_member(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let member = call.required_text(1, "member")?;
    let keyspace = call.required_text(2, "keyspace")?;
    authority::act(needs::remove_member, |caller| {
        caller.must_host_some_of(&keyspace)?;
        policy(caller, &keyspace)?;
        let tenant_id = Tenant::lock(caller, &tenant, &keyspace)?.id;
        let subject = Subject::Member { tenant_id: &tenant_id, member: &member };
        let act = Act::on(&caller.actor, &keyspace, subject)?;
        let removed = spi::execute(
            saved!("DELETE FROM keysmith_private.member WHERE tenant_id = $1 AND member = $2"),
            &[Param::uuid(&tenant_id), Param::text(&member)],
        )?;
        if removed == 0 {
            return Err(errors::unknown_member("member", &member));
        }
        act.done("remove_member")
    })?;
    Ok(None)
}
