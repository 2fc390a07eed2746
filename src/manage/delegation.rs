//! A key that makes keys gives no more than it has.

use super::authority::{self, Caller};
use super::bounds::Bounds;
use super::errors;
use crate::catalog::Catalog;
use crate::catalog::policy::Policy;
use crate::identity::Identity;
use keysmith_core::policy::allowlist::{self, IpNet};
use keysmith_core::policy::limits::Held;
use keysmith_core::policy::scope::{self, GrantList};
use pg::error::{Error, Result};
use pg::scan::Snapshot;
use pg::spi::{self, Param, Row};
use pg::text::lossy;
use pg::transaction;

/// In whose name a key may come to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The giver's own, if it has an owner: the key is handed out, or is put in the
    /// name of another.
    OfTheGiver,
    /// Whoever it was.
    AsBefore,
}

/// Checks a key, as it has become, against the key that made or changed it.
pub fn check(caller: &Caller, key_id: &[u8; 16], owner: Owner) -> Result<()> {
    let Some(giver) = caller.key.as_deref() else { return Ok(()) };
    let Some(bounds) = &caller.bounds else { return Err(errors::unknown_key(&giver.key_id)) };
    let catalog = Catalog::open()?;
    // What the transaction just did shall be seen.
    transaction::increment_command_counter();
    let snapshot = Snapshot::now();
    spi::query_under(
        &snapshot,
        "SELECT k.keyspace, k.scopes, k.role, m.role, k.environment, k.allowlist,
                $2 IS NULL OR coalesce(k.expires_at <= $2, false), k.owner, k.limits,
                k.shared_limits, coalesce(k.origin, k.key_id), coalesce(k.purse, k.origin, k.key_id)
         FROM keysmith_private.key k
         LEFT JOIN keysmith_private.member m ON m.tenant_id = k.tenant_id AND m.member = k.owner
         WHERE k.key_id = $1",
        &[Param::uuid(key_id), Param::timestamp(bounds.expires_at)],
        |rows| {
            let row = rows.first().ok_or_else(|| errors::unknown_key(key_id))?;
            check_row(giver, bounds, key_id, owner, &row)?;
            let keyspace = row.text(1).unwrap_or_default();
            check_scopes(giver, &*catalog.policy_under(&snapshot, keyspace.as_bytes())?, &row)
        },
    )?
}

/// Checks all but the scopes.
fn check_row(
    giver: &Identity,
    bounds: &Bounds,
    key_id: &[u8; 16],
    owner: Owner,
    row: &Row,
) -> Result<()> {
    check_environment(giver, row.text(5).unwrap_or_default().as_bytes())?;
    if let Some(own) = &bounds.allowlist
        && !row.text(6).is_some_and(|given| are_within(&given, own))
    {
        return Err(beyond("allowlist", "networks of the allowlist of the key that gives it"));
    }
    if !row.boolean(7) {
        return Err(beyond("expires_at", "a moment before the key that gives it expires"));
    }
    let Some((line, purse)) = row.uuid(11).zip(row.uuid(12)) else {
        return Err(errors::unknown_key(key_id));
    };
    let (own, shared) = (row.text(9), row.text(10));
    let held = Held { key: line, own: own.as_deref(), shared: shared.as_deref() };
    if !held.is_within(&bounds.held()) {
        return Err(beyond("limits", "counted with those of the key that acts, and as tight")
            .hint(
                "A key with limits gives only keys that share them: itself, and those it made.",
            ));
    }
    if bounds.purse.is_some_and(|own| own != purse) {
        return Err(beyond("credits", "those that the key that acts spends").hint(
            "A key with credits gives only keys that spend them: itself, and those it made.",
        ));
    }
    if owner == Owner::OfTheGiver
        && let Some(own) = &giver.owner
        && row.bytes(8).is_none_or(|owner| *owner != **own)
    {
        return Err(beyond(
            "owner",
            &format!("{:?}, the one of the key that gives it", lossy(own)),
        ));
    }
    Ok(())
}

/// Whether all networks of an array lie within those of another, as decisions take them.
fn are_within(given: &str, own: &str) -> bool {
    let own: Vec<_> = networks(own).flatten().collect();
    networks(given).all(|network| network.is_some_and(|network| allowlist::covers(&own, network)))
}

/// The networks of an array in its text form; nothing for one that can't be read.
fn networks(array: &str) -> impl Iterator<Item = Option<IpNet>> {
    elements(array).map(|text| allowlist::parse(text).ok())
}

/// The elements of an array of networks in its text form.
pub fn elements(array: &str) -> impl Iterator<Item = &str> {
    array.trim_matches(['{', '}']).split(',').filter(|text| !text.is_empty())
}

/// A key of one environment does nothing to those of another.
pub fn check_environment(giver: &Identity, environment: &[u8]) -> Result<()> {
    if *giver.environment == *environment {
        return Ok(());
    }
    Err(beyond(
        "environment",
        &format!("{:?}, the one of the key that acts", lossy(&giver.environment)),
    ))
}

fn check_scopes(giver: &Identity, policy: &Policy, row: &Row) -> Result<()> {
    let scopes = row.texts(2);
    let own: Vec<&[u8]> = scopes.iter().map(Vec::as_slice).collect();
    let roles = [3, 4].map(|column| row.bytes(column));
    let roles = [roles[0].as_deref(), roles[1].as_deref()];
    let given: scope::Held = policy.held(&own, roles);
    let surplus = giver
        .held(|held| given.effective().into_iter().find(|scope| !held.covers(scope)).map(lossy));
    if let Some(scope) = surplus {
        return Err(beyond(
            "scopes",
            &format!("scopes that the key that gives them has; {scope:?} is none"),
        ));
    }
    giver.held(|held| check_for_later(giver, held, &given, roles, own.is_empty()))
}

/// What a role holds may grow later, who owns a key may rise, and what keys without scopes
/// may do is for their keyspace to change. So a key is bound by its own scopes, which the
/// giver has, or else by all that binds the giver.
fn check_for_later(
    giver: &Identity,
    held: &scope::Held,
    given: &scope::Held,
    roles: [Option<&[u8]>; 2],
    is_open: bool,
) -> Result<()> {
    let [own, ..] = given.within;
    if !is_open && own.is_some_and(|own| own.iter().all(|scope| held.covers(scope))) {
        return Ok(());
    }
    let [givers_own, givers_roles @ ..] = held.within;
    let binds = |list: Option<GrantList>| list.is_some_and(|list| !list.iter().any(|s| s == b"*"));
    if binds(givers_own) && !(is_open && giver.scopes.is_empty()) {
        return Err(beyond("scopes", "scopes that the key that gives them has, by name"));
    }
    for (list, name) in givers_roles.into_iter().zip(&giver.roles) {
        let is_shared = name.is_some() && roles.contains(&name.as_deref());
        if binds(list) && !is_shared {
            let name = name.as_deref().map(lossy).unwrap_or_default();
            return Err(beyond("role", &format!("{name:?}, which binds the key that gives it"))
                .hint("Or name scopes that the key has: they bind the new key too."));
        }
    }
    Ok(())
}

fn beyond(name: &str, allowed: &str) -> Error {
    authority::not_allowed(format!("{name} must be {allowed}"))
}
