//! A key or person that makes or changes keys gives them no more than it has.

use super::authority::{self, Caller};
use super::bounds::Bounds;
use super::errors;
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns::key as column};
use crate::decide::lookup::{KeyRows, Reader};
use crate::identity::Identity;
use keysmith_core::policy::allowlist;
use keysmith_core::policy::limits::HeldLimits;
use keysmith_core::policy::scope::{self, GrantList};
use pg::error::{Error, Result};
use pg::text::lossy;
use pg::transaction;
use pg::varlena;

/// The owners that the key may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The delegator's own, if the delegator has an owner: the key is new, or gets another owner.
    OfTheDelegator,
    /// Any: the act does not change the owner.
    AsBefore,
}

/// Checks a key against the key that made or changed it, the delegator. It reads the key as it is
/// after the change. What binds all keys of a tenant binds both.
pub fn check(caller: &Caller, key_id: &[u8; 16], owner: Owner) -> Result<()> {
    let Some(delegator) = caller.identity.as_deref() else { return Ok(()) };
    let catalog = Catalog::open()?;
    // The change itself must be visible.
    transaction::increment_command_counter();
    let reader = Reader::new(&catalog);
    let rows = reader.find_by_id(key_id).ok_or_else(|| errors::unknown_key(key_id))?;
    check_environment(delegator, rows.key().bytes(column::environment).unwrap_or_default())?;
    let policy = reader.policy(rows.key().bytes(column::keyspace).unwrap_or_default())?;
    if let Some(bounds) = &caller.bounds {
        check_bounds(bounds, &policy, key_id, &rows)?;
    }
    check_owner(delegator, owner, &rows)?;
    check_scopes(delegator, &policy, &rows)
}

/// Checks a key against the bounds of a key.
fn check_bounds(bounds: &Bounds, policy: &Policy, key_id: &[u8; 16], rows: &KeyRows) -> Result<()> {
    let key = rows.key();
    if let Some(own) = &bounds.allowlist
        && !key.array(column::allowlist).is_some_and(|given| {
            varlena::networks(given).all(|network| allowlist::covers(own, network))
        })
    {
        return Err(beyond("allowlist", "networks of the allowlist of the key that gives it"));
    }
    if let Some(end) = bounds.expires_at
        && rows.life(policy).end().is_none_or(|given| given > end)
    {
        return Err(beyond("expires_at", "a moment before the key that gives it expires"));
    }
    let line = key.uuid(column::origin).unwrap_or(*key_id);
    let (own, shared) = (key.text(column::limits), key.text(column::shared_limits));
    let held = HeldLimits { key: line, own: own.as_deref(), shared: shared.as_deref() };
    if !held.is_within(&bounds.held()) {
        return Err(beyond("limits", "counted with those of the key that acts, and as tight")
            .hint(
                "A key with limits gives only keys that share them: itself, and those it made.",
            ));
    }
    let purse = key.uuid(column::purse).unwrap_or(line);
    if bounds.purse.is_some_and(|own| own != purse) {
        return Err(beyond("credits", "those that the key that acts spends").hint(
            "A key with credits gives only keys that spend them: itself, and those it made.",
        ));
    }
    Ok(())
}

fn check_owner(delegator: &Identity, owner: Owner, rows: &KeyRows) -> Result<()> {
    if owner == Owner::OfTheDelegator
        && let Some(own) = &delegator.owner
        && rows.key().bytes(column::owner).is_none_or(|owner| *owner != **own)
    {
        let which =
            if delegator.key.is_some() { "the one of the key that gives it" } else { PERSON };
        return Err(beyond("owner", &format!("{:?}, {which}", lossy(own))));
    }
    Ok(())
}

/// How messages call a person.
const PERSON: &str = "the person who acts";

/// Checks the scopes that a person names for a key. A key that is owned by the person would not get
/// the others. So they would only surprise.
pub fn check_named(caller: &Caller, scopes: &[String]) -> Result<()> {
    let person = caller.identity.as_deref().filter(|identity| identity.key.is_none());
    let Some(person) = person else { return Ok(()) };
    let surplus = person.held(|held| scopes.iter().find(|scope| !held.covers(scope.as_bytes())));
    surplus.map_or(Ok(()), |scope| Err(beyond_scopes(PERSON, scope)))
}

pub fn beyond_scopes(who: &str, scope: &str) -> Error {
    beyond("scopes", &format!("scopes that {who} has, which {scope:?} is not"))
}

/// A key of one environment must not act on keys of another.
pub fn check_environment(delegator: &Identity, environment: &[u8]) -> Result<()> {
    match delegator.environment() {
        Some(own) if own != environment => {
            let allowed = format!("{:?}, the one of the key that acts", lossy(own));
            Err(beyond("environment", &allowed))
        }
        _ => Ok(()),
    }
}

fn check_scopes(delegator: &Identity, policy: &Policy, rows: &KeyRows) -> Result<()> {
    let (own, roles) = (rows.scopes(), rows.roles());
    let given: scope::HeldScopes = policy.held(&own, roles);
    let surplus = delegator.held(|held| {
        let held = held.bounded(None);
        given.effective().iter().find(|scope| !held.covers(scope)).map(|scope| lossy(scope))
    });
    if let Some(scope) = surplus {
        let who = if delegator.key.is_some() { "the key that gives them" } else { PERSON };
        return Err(beyond_scopes(who, &scope));
    }
    delegator
        .held(|held| check_for_later(delegator, &held.bounded(None), &given, roles, own.is_empty()))
}

/// The scopes of a role may grow later, the owner of a key may get another role, and a keyspace may
/// change what keys without scopes may do. So the key must be bound by its own scopes, if the delegator
/// holds all of them, or else by everything that binds the delegator.
fn check_for_later(
    delegator: &Identity,
    held: &scope::HeldScopes,
    given: &scope::HeldScopes,
    roles: [Option<&[u8]>; 2],
    is_open: bool,
) -> Result<()> {
    let [own, ..] = given.within;
    if !is_open && own.is_some_and(|own| own.iter().all(|scope| held.covers(scope))) {
        return Ok(());
    }
    let [delegators_own, role, owners, token, _] = held.within;
    let binds = |list: Option<GrantList>| list.is_some_and(|list| !list.iter().any(|s| s == b"*"));
    if binds(token) || binds(delegators_own) && !(is_open && delegator.scopes.is_empty()) {
        return Err(beyond("scopes", "scopes that the key that gives them has, by name"));
    }
    for (list, name) in [role, owners].into_iter().zip(&delegator.roles) {
        let is_shared = name.is_some() && roles.contains(&name.as_deref());
        if binds(list) && !is_shared {
            let name = name.as_deref().map(lossy).unwrap_or_default();
            let who = if delegator.key.is_some() { "the key that gives it" } else { PERSON };
            return Err(beyond("role", &format!("{name:?}, which binds {who}"))
                .hint(format!("Or name scopes that {who} has: they bind the new key too.")));
        }
    }
    Ok(())
}

fn beyond(name: &str, allowed: &str) -> Error {
    authority::not_allowed(format!("{name} must be {allowed}"))
}
