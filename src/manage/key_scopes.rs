//! `add_scopes`, `remove_scopes`: changes of a key's list of scopes.
//!
//! Each reads the list under the lock of the key's row. So of two at a time, the second starts from
//! what the first left.

use super::authority::{self, Caller};
use super::delegation::{self, Owner};
use super::errors;
use super::key;
use super::keyspace::policy;
use super::level::{Needs, functions};
use super::listing;
use super::locked_key::LockedKey;
use crate::audit::{Act, Subject};
use crate::catalog::policy::{EmptyScopes, Policy};
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_add_scopes => add_scopes: Keys;
    keysmith_remove_scopes => remove_scopes: Keys;
}

/// A change of the scopes of a key. It is given the named scopes, and returns those that the key has
/// afterwards.
type Change = fn(&Caller, &Policy, &LockedKey, Vec<String>) -> Result<Vec<String>>;

fn add_scopes(call: &Call) -> Result<Option<Datum>> {
    change(call, needs::add_scopes, |caller, policy, subject, named| {
        key::check_key_grants(policy, &named)?;
        delegation::check_named(caller, &named)?;
        if subject.scopes.is_empty()
            && !named.is_empty()
            && policy.empty_scopes != EmptyScopes::None
        {
            pgrx::notice!(
                "key {} had no scopes of its own, and those of its keyspace; it keeps only the new ones",
                errors::shown(&subject.key_id)
            );
        }
        let scopes = key::distinct(subject.scopes.iter().cloned().chain(named).collect());
        key::check_count(
            "scopes",
            "scopes together with those of the key",
            scopes.len(),
            key::MAX_SCOPES,
        )?;
        Ok(scopes)
    })
}

fn remove_scopes(call: &Call) -> Result<Option<Datum>> {
    change(call, needs::remove_scopes, |_, policy, subject, named| {
        let left: Vec<String> =
            subject.scopes.iter().filter(|scope| !named.contains(scope)).cloned().collect();
        if left.is_empty() && !subject.scopes.is_empty() && policy.empty_scopes != EmptyScopes::None
        {
            let key = errors::shown(&subject.key_id);
            let message =
                format!("key {key} would have no scopes left, and so those of its keyspace");
            return Err(Error::new(Code::Conflict, message)
                .hint("Give it another scope first, or disable or revoke it."));
        }
        let own: Vec<&[u8]> = left.iter().map(String::as_bytes).collect();
        let held = policy.held(&own, [None, None]);
        for scope in named.iter().filter(|scope| !own.is_empty() && held.covers(scope.as_bytes())) {
            pgrx::notice!("other scopes of the key still include {scope:?}");
        }
        Ok(left)
    })
}

fn change(call: &Call, needs: Needs, change: Change) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let named = key::distinct(call.strings(1, "scopes")?);
    key::check_grants("scopes", &named)?;
    authority::act(needs, |caller| {
        let subject = LockedKey::lock(caller, &key_id)?;
        let policy = policy(caller, &subject.keyspace)?;
        let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(&key_id))?;
        let scopes = change(caller, &policy, &subject, named)?;
        spi::execute(
            saved!("UPDATE keysmith_private.key SET scopes = $2 WHERE key_id = $1"),
            &[Param::uuid(&key_id), Param::texts(&scopes)],
        )?;
        delegation::check(caller, &key_id, Owner::AsBefore)?;
        key::tell_if_powerless(&policy, &key_id)?;
        act.done("alter")?;
        listing::entry(&key_id)
    })
}
