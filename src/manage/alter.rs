//! `alter_key`: a patch of a key.

use super::active_keys;
use super::authority;
use super::credits::{self, Credits};
use super::delegation::{self, Owner};
use super::draft;
use super::field::{Document, Grants, Moment, Networks};
use super::json;
use super::key;
use super::keyspace::policy;
use super::level::functions;
use super::limits::{self, Limits};
use super::listing;
use super::locked_key::{self, LockedKey};
use super::metadata;
use super::patch::{self, Patch};
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use crate::usage::session::worker_slot;
use pg::call::Call;
use pg::error::{Error, Result};
use pg::spi::Param;
use pgrx::pg_sys::Datum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

functions! {
    keysmith_alter_key => alter_key: Keys;
}

const NAME: &str = "changes";

/// What `alter_key` changes.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    label: Patch<String>,
    #[serde(deserialize_with = "patch::not_null")]
    scopes: Patch<Grants>,
    role: Patch<String>,
    owner: Patch<String>,
    allowlist: Patch<Networks>,
    expires_at: Patch<Moment>,
    #[serde(skip_serializing)]
    metadata: Patch<Document>,
    limits: Patch<Limits>,
    #[serde(skip_serializing)]
    credits: Patch<Credits>,
}

impl Changes {
    fn read(call: &Call, n: usize) -> Result<Changes> {
        let mut changes: Changes = json::required(call, n, NAME)?;
        if let Patch::Value(Moment(moment)) = changes.expires_at {
            let expiry = key::expiry(Some(moment)).map_err(in_changes)?;
            changes.expires_at = expiry.map_or(Patch::Null, |moment| Patch::Value(Moment(moment)));
        }
        limits::check_kept(&changes.limits)?;
        Ok(changes)
    }
}

/// The error names a field of the patch.
fn in_changes(error: Error) -> Error {
    error.within(NAME)
}

fn alter_key(call: &Call) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let mut changes = Changes::read(call, 1)?;
    let metadata = metadata::assignment(call, 1, &changes.metadata)?;
    authority::act(needs::alter_key, |caller| {
        let subject = LockedKey::lock(caller, &key_id)?;
        let policy = policy(caller, &subject.keyspace)?;
        let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(&key_id))?;
        let expiry = changes.expires_at.change().map(|expiry| expiry.map(|moment| moment.0));
        if subject.rotated_to.is_some()
            && expiry.is_some_and(|new| !ends_sooner(new, subject.expires_at))
        {
            let rule = "can't be put off: the key was rotated";
            return Err(Error::argument("changes.expires_at", rule));
        }
        // An expired key that gets a new expiry counts as active again.
        let tenant = Tenant::with_id(&subject.tenant_id)?;
        let is_revived = subject.is_expired() && expiry.is_some() && !subject.is_over();
        if is_revived {
            for surplus in active_keys::make_room(caller, &policy, &tenant)? {
                locked_key::replace(caller, &surplus)?;
            }
        }
        let has_allowlist = changes.allowlist.value().is_some_and(|list| list.0.is_some());
        let limits =
            changes.limits.change().map(|limits| limits.and_then(|limits| limits.0.as_deref()));
        tenant.check_feature(&policy, "allowlist", has_allowlist)?;
        tenant.check_feature(&policy, "expires_at", expiry.flatten().is_some())?;
        tenant.check_feature(&policy, "limits", limits.flatten().is_some())?;
        key::check_label(&policy, changes.label.text()).map_err(in_changes)?;
        if !changes.label.is_absent() {
            key::check_has_label(&policy, changes.label.text()).map_err(in_changes)?;
        }
        let label = match &changes.label {
            Patch::Absent if is_revived => subject.label.as_deref(),
            label => label.text(),
        };
        let own = Some(&key_id);
        active_keys::check_label_is_free(&policy, &tenant, &subject.environment, label, own)?;
        key::check_role(&policy, changes.role.text(), &subject.keyspace)?;
        key::check_owner(&subject.tenant_id, changes.owner.text())?;
        if let Patch::Value(Grants(scopes)) = &mut changes.scopes {
            key::check_key_grants(&policy, scopes).map_err(in_changes)?;
            delegation::check_named(caller, scopes)?;
            draft::fill_in_defaults(&policy, scopes);
        }
        let mut columns = patch::columns(&changes)?;
        // A caller without a key sets all limits, a key only its own.
        if limits.is_some() && caller.bounds.is_none() {
            columns.insert("shared_limits".into(), Value::Null);
        }
        patch::update("keysmith_private.key", ("key_id", Param::uuid(&key_id)), columns, metadata)?;
        if let Some(credits) = changes.credits.change() {
            credits::set_for_key(caller, &subject, credits).map_err(in_changes)?;
        }
        if let Some(limits) = limits {
            limits::follow(&subject, limits).map_err(in_changes)?;
        }
        let owner = if changes.owner.is_absent() { Owner::AsBefore } else { Owner::OfTheDelegator };
        delegation::check(caller, &key_id, owner)?;
        let Changes { scopes, role, owner, .. } = &changes;
        if !(scopes.is_absent() && role.is_absent() && owner.is_absent()) {
            key::tell_if_powerless(&policy, &key_id)?;
        }
        if changes.expires_at.value().is_some() {
            worker_slot::want();
        }
        act.done("alter")?;
        listing::entry(&key_id)
    })
}

/// Whether a new expiry is not after the old one. `None` is later than any other.
fn ends_sooner(new: Option<i64>, old: Option<i64>) -> bool {
    new.is_some_and(|new| old.is_none_or(|old| new <= old))
}
