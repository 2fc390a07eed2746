//! `alter_key`: a patch of a key.

use super::authority;
use super::credits::{self, Credits};
use super::delegation::{self, Owner};
use super::draft;
use super::key;
use super::keyspace::policy;
use super::level::functions;
use super::limits;
use super::listing;
use super::locked_key::{self, LockedKey};
use super::patch::{Change, Patch};
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use keysmith_core::policy::allowlist::{self, MAX_NETWORKS};
use pg::call::Call;
use pg::error::{Error, Result};
use pg::input;
use pg::jsonb::Jsonb;
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_alter_key => alter_key: Keys;
}

/// The changes in a patch of a key.
struct Changes {
    label: Change<String>,
    scopes: Option<Vec<String>>,
    role: Change<String>,
    owner: Change<String>,
    allowlist: Option<Vec<String>>,
    expires_at: Change<i64>,
    metadata: bool,
    limits: Change<String>,
    credits: Change<Credits>,
}

impl Changes {
    fn read(json: Option<Jsonb>) -> Result<Changes> {
        let mut patch = Patch::read("changes", json)?;
        let changes = Changes {
            label: patch.text("label")?,
            scopes: patch.list("scopes")?.map(key::distinct),
            role: patch.text("role")?,
            owner: patch.text("owner")?,
            allowlist: patch.texts("allowlist")?.map(networks).transpose()?,
            expires_at: match patch.text("expires_at")? {
                Some(Some(text)) => Some(key::expiry(Some(timestamp("expires_at", &text)?))?),
                other => other.map(|_| None),
            },
            metadata: patch.object("metadata")?,
            limits: limits::changed(&mut patch)?,
            credits: Credits::changed(&mut patch)?,
        };
        patch.finish()?;
        Ok(changes)
    }
}

/// Networks in their canonical form.
pub fn networks(texts: Vec<String>) -> Result<Vec<String>> {
    const NAME: &str = "allowlist";
    key::check_count(NAME, "networks", texts.len(), MAX_NETWORKS)?;
    let canonical = |text: String| {
        allowlist::parse(&text)
            .map(|network| network.to_string())
            .map_err(|rule| Error::argument(NAME, rule))
    };
    texts.into_iter().map(canonical).collect()
}

/// Reads a moment in any form that PostgreSQL does.
pub fn timestamp(name: &str, text: &str) -> Result<i64> {
    input::timestamp(text)
        .ok_or_else(|| Error::argument(name, "must be a timestamp such as 2030-01-31T12:00:00Z"))
}

fn alter_key(call: &Call) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let mut changes = Changes::read(call.jsonb(1))?;
    authority::act(needs::alter_key, |caller| {
        let subject = LockedKey::lock(caller, &key_id)?;
        let policy = policy(caller, &subject.keyspace)?;
        let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(&key_id))?;
        let expiry = changes.expires_at;
        if subject.rotated_to.is_some()
            && expiry.is_some_and(|new| !ends_sooner(new, subject.expires_at))
        {
            return Err(Error::argument("expires_at", "can't be put off: the key was rotated"));
        }
        // An expired key that gets a new expiry counts as active again.
        if subject.is_expired() && expiry.is_some() {
            for surplus in key::make_room(caller, &policy, &subject.tenant_id)? {
                locked_key::replace(caller, &surplus)?;
            }
        }
        let tenant = Tenant::with_id(&subject.tenant_id)?;
        let lists = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        tenant.check_feature(&policy, "allowlist", lists(&changes.allowlist))?;
        tenant.check_feature(&policy, "expires_at", expiry.flatten().is_some())?;
        let limits = changes.limits.as_ref().map(Option::as_deref);
        tenant.check_feature(&policy, "limits", limits.flatten().is_some())?;
        if let Some(label) = &changes.label {
            key::check_label(&policy, label.as_deref())?;
        }
        if let Some(role) = &changes.role {
            key::check_role(&policy, role.as_deref(), &subject.keyspace)?;
        }
        if let Some(owner) = &changes.owner {
            key::check_owner(&subject.tenant_id, owner.as_deref())?;
        }
        if let Some(scopes) = &mut changes.scopes {
            key::check_key_grants(&policy, scopes)?;
            draft::fill_in_defaults(&policy, scopes);
        }
        spi::execute(
            saved!(
                "UPDATE keysmith_private.key SET
                     label = CASE WHEN $2 THEN $3 ELSE label END,
                     scopes = CASE WHEN $4 THEN $5 ELSE scopes END,
                     role = CASE WHEN $6 THEN $7 ELSE role END,
                     owner = CASE WHEN $8 THEN $9 ELSE owner END,
                     allowlist = CASE WHEN $10 THEN nullif($11::cidr[], '{}') ELSE allowlist END,
                     expires_at = CASE WHEN $12 THEN $13 ELSE expires_at END,
                     metadata = CASE WHEN $14
                         THEN coalesce(nullif($15 -> 'metadata', 'null'), '{}') ELSE metadata END,
                     limits = CASE WHEN $16 THEN $17 ELSE limits END,
                     shared_limits = CASE WHEN NOT $16 OR $18 THEN shared_limits END
                 WHERE key_id = $1"
            ),
            &[
                Param::uuid(&key_id),
                Param::boolean(changes.label.is_some()),
                Param::text_or_null(changes.label.as_ref().and_then(Option::as_deref)),
                Param::boolean(changes.scopes.is_some()),
                Param::texts(changes.scopes.as_deref().unwrap_or_default()),
                Param::boolean(changes.role.is_some()),
                Param::text_or_null(changes.role.as_ref().and_then(Option::as_deref)),
                Param::boolean(changes.owner.is_some()),
                Param::text_or_null(changes.owner.as_ref().and_then(Option::as_deref)),
                Param::boolean(changes.allowlist.is_some()),
                Param::texts(changes.allowlist.as_deref().unwrap_or_default()),
                Param::boolean(expiry.is_some()),
                Param::timestamp(expiry.flatten()),
                Param::boolean(changes.metadata),
                Param::jsonb(call.jsonb(1)),
                Param::boolean(limits.is_some()),
                Param::text_or_null(limits.flatten()),
                // A caller without a key replaces shared limits too.
                Param::boolean(caller.key.is_some()),
            ],
        )?;
        if let Some(credits) = &changes.credits {
            credits::set_for_key(caller, &subject, credits.as_ref())?;
        }
        if let Some(limits) = limits {
            limits::follow(&subject, limits)?;
        }
        let owner = if changes.owner.is_some() { Owner::OfTheDelegator } else { Owner::AsBefore };
        delegation::check(caller, &key_id, owner)?;
        if changes.scopes.is_some() || changes.role.is_some() || changes.owner.is_some() {
            key::tell_if_powerless(&policy, &key_id)?;
        }
        act.done("alter")?;
        listing::entry(&key_id)
    })
}

/// Whether a new expiry is not after the old one. `None` is later than any other.
fn ends_sooner(new: Option<i64>, old: Option<i64>) -> bool {
    new.is_some_and(|new| old.is_none_or(|old| new <= old))
}
