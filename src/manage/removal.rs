//! `remove_scope`, `remove_role`: the ends of definitions. The error names the users of one, unless
//! they lose it too. Nothing gets more rights by that: a key that would be left without scopes, or
//! without the role that bounds it, is revoked.

use super::authority::{self, Caller};
use super::keyspace::{self, policy};
use super::level::functions;
use super::locked_key::{LockedKey, end_locked};
use crate::audit::{Act, Subject};
use crate::catalog::policy::EmptyScopes;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::parameter::{parameters, values};
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_remove_scope => remove_scope: Admin;
    keysmith_remove_role => remove_role: Admin;
}

/// The most users that an error names of each sort.
const MOST_NAMED: usize = 5;

/// Takes the names of a scope, $2, out of a list.
macro_rules! without {
    ($list:literal) => {
        concat!(
            $list,
            " = ARRAY(SELECT l.name FROM pg_catalog.unnest(",
            $list,
            ") WITH ORDINALITY AS l (name, n) WHERE l.name <> ALL ($2) ORDER BY l.n)"
        )
    };
}

fn remove_scope(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let scope = call.required_text(1, "scope")?;
    let cascade = call.boolean(2, "cascade")?;
    authority::act(needs::remove_scope, |caller| {
        let policy = policy(caller, &keyspace)?;
        keyspace::lock(&keyspace)?;
        let act = Act::on(&caller.actor, &keyspace, Subject::Scope(&scope))?;
        let meant = Meant::of(&keyspace, &scope)?;
        let names = meant.names(&keyspace)?;
        let params = [Param::text(&keyspace), Param::texts(&names)];
        let uses = ScopeUses::of(&params, &meant)?;
        if !cascade {
            refuse_used("scope", &scope, &uses.described())?;
        }
        for key_id in &uses.keys {
            let key = LockedKey::lock(caller, key_id)?;
            if policy.empty_scopes != EmptyScopes::None
                && key.scopes.iter().all(|own| names.contains(own))
            {
                end_locked(caller, &key, "its only scope was removed")?;
            } else {
                change(
                    caller,
                    &keyspace,
                    (Subject::Key(key_id), "alter"),
                    concat!(
                        "UPDATE keysmith_private.key SET ",
                        without!("scopes"),
                        " WHERE key_id = $1"
                    ),
                    &[Param::uuid(key_id), params[1]],
                )?;
            }
        }
        for role in &uses.roles {
            change(
                caller,
                &keyspace,
                (Subject::Role(role), "define_role"),
                concat!(
                    "UPDATE keysmith_private.role SET ",
                    without!("scopes"),
                    " WHERE keyspace = $1 AND role = $3"
                ),
                &[params[0], params[1], Param::text(role)],
            )?;
        }
        for implying in &uses.implied_by {
            change(
                caller,
                &keyspace,
                (Subject::Scope(implying), "define_scope"),
                concat!(
                    "UPDATE keysmith_private.scope SET ",
                    without!("implies"),
                    " WHERE keyspace = $1 AND scope = $3"
                ),
                &[params[0], params[1], Param::text(implying)],
            )?;
        }
        // A tenant that is left without scopes has keys that can do nothing.
        for (tenant_id, _) in &uses.tenants {
            spi::execute(
                "SELECT FROM keysmith_private.tenant WHERE tenant_id = $1 FOR NO KEY UPDATE",
                &[Param::uuid(tenant_id)],
            )?;
            change(
                caller,
                &keyspace,
                (Subject::Tenant(tenant_id), "alter_tenant"),
                concat!(
                    "UPDATE keysmith_private.tenant SET ",
                    without!("scopes"),
                    " WHERE tenant_id = $1"
                ),
                &[Param::uuid(tenant_id), params[1]],
            )?;
        }
        if uses.is_default {
            change(
                caller,
                &keyspace,
                (Subject::Keyspace, "alter_keyspace"),
                concat!(
                    "UPDATE keysmith_private.keyspace SET ",
                    without!("default_scopes"),
                    " WHERE keyspace = $1"
                ),
                &params,
            )?;
        }
        let removed = spi::execute(
            "DELETE FROM keysmith_private.scope WHERE keyspace = $1 AND scope = $2",
            &[params[0], Param::text(&scope)],
        )?;
        if removed == 0 {
            return Err(unknown("scope", &scope, &keyspace));
        }
        // Without its need a route would be open to every key.
        for requirement in &uses.requirements {
            pgrx::notice!(
                "{requirement} still needs {scope:?}, which only keys with a wildcard hold now"
            );
        }
        act.done("remove_scope")
    })?;
    Ok(None)
}

/// An act on something that used what is removed.
fn change(
    caller: &Caller,
    keyspace: &str,
    (subject, action): (Subject, &str),
    statement: &str,
    params: &[Param],
) -> Result<()> {
    let act = Act::on(&caller.actor, keyspace, subject)?;
    spi::execute(statement, params)?;
    act.done(action)
}

/// The scope to remove: its name, and for one with parameters its instances, except those that other
/// definitions stand for.
struct Meant<'a> {
    scope: &'a str,
    others: Vec<String>,
}

impl<'a> Meant<'a> {
    fn of(keyspace: &str, scope: &'a str) -> Result<Meant<'a>> {
        let others = spi::query_now(
            "SELECT scope FROM keysmith_private.scope WHERE keyspace = $1 AND scope <> $2",
            &[Param::text(keyspace), Param::text(scope)],
            |rows| rows.iter().filter_map(|row| row.text(1)).collect(),
        )?;
        Ok(Meant { scope, others })
    }

    fn is(&self, name: &str) -> bool {
        let is_other = |other: &String| other == name || values(other, name).is_some();
        name == self.scope
            || values(self.scope, name).is_some() && !self.others.iter().any(is_other)
    }

    /// The names by which it is in use, and its own.
    fn names(&self, keyspace: &str) -> Result<Vec<String>> {
        let mut names = vec![self.scope.to_owned()];
        if parameters(self.scope).next().is_some() {
            names.extend(spi::query_now(
                "SELECT DISTINCT n.name FROM (
                     SELECT pg_catalog.unnest(scopes) AS name FROM keysmith_private.key
                     WHERE keyspace = $1 AND revoked_at IS NULL
                     UNION ALL SELECT pg_catalog.unnest(scopes) FROM keysmith_private.role WHERE keyspace = $1
                     UNION ALL SELECT pg_catalog.unnest(scopes) FROM keysmith_private.tenant WHERE keyspace = $1
                     UNION ALL SELECT pg_catalog.unnest(implies) FROM keysmith_private.scope WHERE keyspace = $1
                     UNION ALL SELECT pg_catalog.unnest(default_scopes) FROM keysmith_private.keyspace
                     WHERE keyspace = $1) n
                 WHERE n.name <> $2",
                &[Param::text(keyspace), Param::text(self.scope)],
                |rows| {
                    let names = rows.iter().filter_map(|row| row.text(1));
                    names.filter(|name| self.is(name)).collect::<Vec<_>>()
                },
            )?);
        }
        Ok(names)
    }
}

/// What uses a scope by its names.
struct ScopeUses {
    keys: Vec<[u8; 16]>,
    roles: Vec<String>,
    implied_by: Vec<String>,
    /// Tenants with their names, whose keys are bound to it.
    tenants: Vec<([u8; 16], String)>,
    is_default: bool,
    /// Routes, and the option `managed_by`.
    requirements: Vec<String>,
}

impl ScopeUses {
    fn of(params: &[Param; 2], meant: &Meant) -> Result<ScopeUses> {
        let names = |statement: &str| {
            spi::query_now(statement, params, |rows| {
                rows.iter().filter_map(|row| row.text(1)).collect::<Vec<String>>()
            })
        };
        let expressions = spi::query_now(
            "SELECT 'route ' || method || ' ' || pattern || coalesce(' ' || nullif(variant, ''), ''), scopes
             FROM keysmith_private.route WHERE keyspace = $1
             UNION ALL
             SELECT 'managed_by', managed_by FROM keysmith_private.keyspace WHERE keyspace = $1
             ORDER BY 1",
            &params[..1],
            |rows| {
                rows.iter().filter_map(|row| row.text(1).zip(row.text(2))).collect::<Vec<_>>()
            },
        )?;
        let needs = |text: &str| {
            Expression::parse_of_route(text)
                .is_ok_and(|needed| needed.scopes().into_iter().any(|name| meant.is(name)))
        };
        Ok(ScopeUses {
            keys: spi::query_now(
                "SELECT key_id FROM keysmith_private.key
                 WHERE keyspace = $1 AND revoked_at IS NULL AND scopes && $2 ORDER BY key_id",
                params,
                |rows| rows.iter().filter_map(|row| row.uuid(1)).collect(),
            )?,
            roles: names(
                "SELECT role FROM keysmith_private.role
                 WHERE keyspace = $1 AND scopes && $2 ORDER BY role",
            )?,
            implied_by: names(
                "SELECT scope FROM keysmith_private.scope
                 WHERE keyspace = $1 AND implies && $2 ORDER BY scope",
            )?,
            tenants: spi::query_now(
                "SELECT tenant_id, name FROM keysmith_private.tenant
                 WHERE keyspace = $1 AND scopes && $2 ORDER BY name",
                params,
                |rows| rows.iter().filter_map(|row| row.uuid(1).zip(row.text(2))).collect(),
            )?,
            is_default: !names(
                "SELECT keyspace FROM keysmith_private.keyspace
                 WHERE keyspace = $1 AND default_scopes && $2",
            )?
            .is_empty(),
            requirements: expressions
                .into_iter()
                .filter_map(|(what, text)| needs(&text).then_some(what))
                .collect(),
        })
    }

    fn described(&self) -> Vec<String> {
        let mut uses = Vec::new();
        uses.extend(counted(self.keys.len(), "key"));
        uses.extend(named(&self.roles).map(|role| format!("role {role:?}")));
        uses.extend(
            named(&self.implied_by).map(|scope| format!("scope {scope:?}, which implies it")),
        );
        uses.extend(named(&self.tenants).map(|(_, tenant)| format!("tenant {tenant:?}")));
        uses.extend(self.is_default.then(|| "default_scopes".into()));
        uses.extend(named(&self.requirements).cloned());
        uses
    }
}

fn remove_role(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let role = call.required_text(1, "role")?;
    let cascade = call.boolean(2, "cascade")?;
    authority::act(needs::remove_role, |caller| {
        policy(caller, &keyspace)?;
        keyspace::lock(&keyspace)?;
        let params = [Param::text(&keyspace), Param::text(&role)];
        // From now on nothing new can refer to it.
        let locked = spi::execute(
            "SELECT FROM keysmith_private.role WHERE keyspace = $1 AND role = $2 FOR UPDATE",
            &params,
        )?;
        if locked == 0 {
            return Err(unknown("role", &role, &keyspace));
        }
        let act = Act::on(&caller.actor, &keyspace, Subject::Role(&role))?;
        let keys = spi::query_now(
            "SELECT key_id FROM keysmith_private.key
             WHERE keyspace = $1 AND role = $2 AND revoked_at IS NULL ORDER BY key_id",
            &params,
            |rows| rows.iter().filter_map(|row| row.uuid(1)).collect::<Vec<_>>(),
        )?;
        let members = spi::query_now(
            "SELECT t.name, m.member, t.tenant_id
             FROM keysmith_private.member m JOIN keysmith_private.tenant t USING (tenant_id, keyspace)
             WHERE keyspace = $1 AND m.role = $2 ORDER BY t.name, m.member",
            &params,
            |rows| {
                let member = |row: spi::ResultRow| Some((row.text(1)?, row.text(2)?, row.uuid(3)?));
                rows.iter().filter_map(member).collect::<Vec<_>>()
            },
        )?;
        if !cascade {
            let of = |(tenant, member, _): &(String, String, [u8; 16])| {
                format!("member {member:?} of tenant {tenant:?}")
            };
            let uses: Vec<String> =
                counted(keys.len(), "key").into_iter().chain(named(&members).map(of)).collect();
            refuse_used("role", &role, &uses)?;
        }
        for key_id in &keys {
            end_locked(caller, &LockedKey::lock(caller, key_id)?, "its role was removed")?;
        }
        for (_, member, tenant_id) in &members {
            change(
                caller,
                &keyspace,
                (Subject::Member { tenant_id, member }, "remove_member"),
                "DELETE FROM keysmith_private.member m
                 WHERE m.keyspace = $1 AND m.tenant_id = $2 AND m.member = $3",
                &[params[0], Param::uuid(tenant_id), Param::text(member)],
            )?;
        }
        spi::execute(
            "UPDATE keysmith_private.key SET role = NULL WHERE keyspace = $1 AND role = $2",
            &params,
        )?;
        spi::execute(
            "DELETE FROM keysmith_private.role WHERE keyspace = $1 AND role = $2",
            &params,
        )?;
        act.done("remove_role")
    })?;
    Ok(None)
}

fn named<T>(users: &[T]) -> impl Iterator<Item = &T> {
    users.iter().take(MOST_NAMED)
}

fn counted(count: usize, what: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    }
}

fn refuse_used(what: &str, name: &str, uses: &[String]) -> Result<()> {
    if uses.is_empty() {
        return Ok(());
    }
    let message = format!("{what} {name:?} is used by {}", uses.join("; "));
    Err(Error::new(Code::Conflict, message)
        .hint("Change these first, or remove it with cascade => true."))
}

fn unknown(what: &str, name: &str, keyspace: &str) -> Error {
    let shown: String = name.chars().take(200).collect();
    Error::not_found(format!("{what} {shown:?} does not exist in keyspace {keyspace:?}"))
}
