//! Rotates, regenerates, disables, enables and revokes keys.

use super::active_keys;
use super::authority::{self, Caller};
use super::delegation::{self, Owner};
use super::draft::{self, Draft};
use super::errors::unknown_key;
use super::key::{self, Fresh};
use super::keyspace::policy;
use super::level::{Needs, functions};
use super::locked_key::{LockedKey, end_locked, has_successor};
use super::mint;
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use crate::catalog::policy::Policy;
use crate::pepper;
use crate::usage::session::worker_slot;
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::foreign::Hashings;
use keysmith_core::key::{MAX_KEY_LEN, foreign};
use pg::call::{Bytes, Call, must_not_be_null, sql_functions};
use pg::composite::Copied;
use pg::error::{Code, Error, Result};
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param, ResultRow, Saved, saved};
use pgrx::pg_sys::{self, Datum, Interval};

functions! {
    keysmith_rotate => rotate: Keys;
    keysmith_regenerate => regenerate: Keys;
    keysmith_disable => disable: Keys;
    keysmith_enable => enable: Keys;
    keysmith_revoke => revoke: Keys;
}

sql_functions! {
    keysmith_report_leak => report_leak;
}

fn rotate(call: &Call) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let grace = call.interval(1, "grace")?;
    check_grace(&grace)?;
    let (row, api_key) = authority::act(needs::rotate, |caller| {
        let old = match LockedKey::lock(caller, &key_id) {
            Err(unknown) => return Err(rotated_before(caller, &key_id)?.unwrap_or(unknown)),
            Ok(old) => old,
        };
        old.check_is_active()?;
        let act = Act::on(&caller.actor, &old.keyspace, Subject::Key(&key_id))?;
        let is_over_at_once = grace.time == 0 && grace.day == 0 && grace.month == 0;
        let tenant = Tenant::with_id(&old.tenant_id)?;
        tenant.check_feature(&*policy(caller, &old.keyspace)?, "grace", !is_over_at_once)?;
        let (successor, minted, api_key) = succeed(caller, &old, false, None)?;
        spi::execute(
            saved!(
                "UPDATE keysmith_private.key SET
                     rotated_to = $2,
                     revoked_at = CASE WHEN $3 THEN pg_catalog.clock_timestamp() END,
                     revoked_reason = CASE WHEN $3 THEN 'rotated' END,
                     expires_at = CASE WHEN $3 THEN expires_at
                         ELSE least(expires_at, pg_catalog.clock_timestamp() + $4) END
                 WHERE key_id = $1"
            ),
            &[
                Param::uuid(&key_id),
                Param::uuid(&successor),
                Param::boolean(is_over_at_once),
                call.given(1, pg_sys::INTERVALOID),
            ],
        )?;
        if !is_over_at_once {
            worker_slot::want();
        }
        act.done("rotate")?;
        Ok((minted, api_key))
    })?;
    key::with_api_key(&row, &api_key)
}

/// The error for a key that was rotated without grace, and so is revoked.
fn rotated_before(caller: &Caller, key_id: &[u8; 16]) -> Result<Option<Error>> {
    let found = spi::first(
        "SELECT rotated_to FROM keysmith_private.key
         WHERE key_id = $1 AND ($2 IS NULL OR tenant_id = ANY ($2))
           AND ($3 IS NULL OR environment = $3)",
        &[Param::uuid(key_id), caller.tenants(), caller.environment()],
        |row| row.uuid(1),
    )?;
    let successor = found;
    Ok(successor.map(|successor| has_successor(key_id, &successor)))
}

fn check_grace(grace: &Interval) -> Result<()> {
    const DAY: i128 = 86_400_000_000;
    const MOST: i128 = 366 * DAY;
    let length =
        i128::from(grace.time) + i128::from(grace.day) * DAY + i128::from(grace.month) * 30 * DAY;
    let parts_agree = grace.time >= 0 && grace.day >= 0 && grace.month >= 0;
    if !parts_agree || length > MOST {
        return Err(Error::argument("grace", "must be from 0 to 366 days"));
    }
    Ok(())
}

/// Stores a new key with the properties of an old one.
fn succeed(
    caller: &Caller,
    old: &LockedKey,
    regenerated: bool,
    label: Option<&str>,
) -> Result<([u8; 16], Copied, String)> {
    let policy = policy(caller, &old.keyspace)?;
    let fresh = Fresh::generate(&policy, &old.kind, &old.environment)?;
    key::note_generation(&policy, &old.keyspace, fresh.generation)?;
    let made = spi::first(
        saved!(concat!(
            "INSERT INTO keysmith_private.key (
                 tenant_id, expires_at, generation, digest, keyspace, environment, kind, role, owner,
                 scopes, allowlist, metadata, label, key_prefix, key_snippet, created_by,
                 regenerated, display_id, origin, limits, shared_limits, purse)
             SELECT tenant_id, expires_at, $2, $3, keyspace, environment, kind, role, owner,
                 scopes, allowlist, metadata, coalesce($9, label), $4, $5, $6,
                 regenerated OR $7, $8, coalesce(origin, key_id), limits, shared_limits, purse
             FROM keysmith_private.key WHERE key_id = $1",
            key::returning_minted!()
        )),
        &[
            Param::uuid(&old.key_id),
            Param::smallint(fresh.generation),
            Param::bytes(&fresh.digest),
            Param::text(&fresh.key_prefix),
            Param::text(&fresh.key_snippet),
            Param::text(&caller.actor.role),
            Param::boolean(regenerated),
            Param::text_or_null(key::new_display_id(&policy, &old.keyspace)?.as_deref()),
            Param::text_or_null(label),
        ],
        key::made,
    )?;
    let (key_id, minted) = made.ok_or_else(|| unknown_key(&old.key_id))?;
    delegation::check(caller, &key_id, Owner::OfTheDelegator)?;
    Act::made(&caller.actor, &old.keyspace, Subject::Key(&key_id)).noted("mint")?;
    Ok((key_id, minted, fresh.api_key))
}

/// Replaces a tenant's only key, for products with a single key per account. The old key is
/// revoked in the same transaction. If the tenant has several keys, it replaces the one that
/// `regenerate` made last, or else the only one without a label. If it has no such key, it
/// makes one.
fn regenerate(call: &Call) -> Result<Option<Datum>> {
    let mut draft = Draft {
        tenant: call.required_text(0, "tenant")?,
        label: call.text(1, "label")?,
        environment: call.text(2, "environment")?,
        kind: draft::kind(call.required_text(3, "kind")?)?,
        keyspace: call.required_text(4, "keyspace")?,
        ..Draft::default()
    };
    let (row, api_key) = authority::act(needs::regenerate, |caller| {
        let policy = policy(caller, &draft.keyspace)?;
        let tenant = Tenant::find(caller, &draft.tenant, &draft.keyspace)?;
        let environment = draft.settle(caller, &policy, &tenant)?;
        let Some(old) = legacy_key(&policy, &tenant, &draft.kind, &environment)? else {
            tenant.check_feature(&policy, "publishable", draft.kind == "publishable")?;
            let made = mint::mint_for(caller, &policy, &tenant, &draft, &environment, true)?;
            tenant.must_be_named(&draft.tenant, &draft.keyspace)?;
            return Ok(made);
        };
        let old = LockedKey::lock(caller, &old)?;
        old.check_is_active()?;
        let act = Act::on(&caller.actor, &old.keyspace, Subject::Key(&old.key_id))?;
        let label = draft.label.as_deref();
        let own = Some(&old.key_id);
        active_keys::check_label_is_free(&policy, &tenant, &environment, label, own)?;
        let (successor, minted, api_key) = succeed(caller, &old, true, label)?;
        spi::execute(
            saved!(
                "UPDATE keysmith_private.key SET rotated_to = $2,
                     revoked_at = pg_catalog.clock_timestamp(), revoked_reason = 'regenerated'
                 WHERE key_id = $1"
            ),
            &[Param::uuid(&old.key_id), Param::uuid(&successor)],
        )?;
        act.done("revoke")?;
        Ok((minted, api_key))
    })?;
    key::with_api_key(&row, &api_key)
}

/// Finds the key that a regeneration replaces. Regenerations of one tenant take turns.
fn legacy_key(
    policy: &Policy,
    tenant: &Tenant,
    kind: &str,
    environment: &str,
) -> Result<Option<[u8; 16]>> {
    active_keys::one_at_a_time(&tenant.id)?;
    spi::query(
        saved!(concat!(
            "SELECT key_id, regenerated FROM keysmith_private.key
             WHERE tenant_id = $1 AND kind = $2 AND environment = $3 AND revoked_at IS NULL
               AND coalesce(least(expires_at, ",
            key::latest_end!(),
            ") > pg_catalog.clock_timestamp(), true)
               AND rotated_to IS NULL AND (regenerated OR label IS NULL OR $4)
             ORDER BY regenerated DESC, created_at DESC LIMIT 2"
        )),
        &[
            Param::uuid(&tenant.id),
            Param::text(kind),
            Param::text(environment),
            Param::boolean(policy.max_active_keys == Some(1)),
        ],
        |rows| {
            let is_the_one = |row: &ResultRow| row.boolean(2) || rows.count() == 1;
            rows.first().filter(is_the_one).and_then(|row| row.uuid(1))
        },
    )
}

fn disable(call: &Call) -> Result<Option<Datum>> {
    switch(
        call,
        needs::disable,
        "disable",
        false,
        saved!(
            "UPDATE keysmith_private.key SET
                 disabled_at = coalesce(disabled_at, pg_catalog.clock_timestamp()),
                 disabled_reason = NULL
             WHERE key_id = $1"
        ),
    )
}

fn enable(call: &Call) -> Result<Option<Datum>> {
    switch(
        call,
        needs::enable,
        "enable",
        true,
        saved!(
            "UPDATE keysmith_private.key SET disabled_at = NULL, disabled_reason = NULL,
                 enabled_at = pg_catalog.clock_timestamp()
             WHERE key_id = $1"
        ),
    )
}

fn switch(
    call: &Call,
    needs: Needs,
    action: &str,
    gives: bool,
    statement: &'static Saved,
) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    authority::act(needs, |caller| {
        let subject = LockedKey::lock(caller, &key_id)?;
        let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(&key_id))?;
        spi::execute(statement, &[Param::uuid(&key_id)])?;
        if gives {
            delegation::check(caller, &key_id, Owner::AsBefore)?;
        }
        act.done(action)
    })?;
    Ok(None)
}

fn revoke(call: &Call) -> Result<Option<Datum>> {
    let key_id = call.uuid(0, "key_id")?;
    let reason = call.text(1, "reason")?;
    key::check_length("reason", reason.as_deref(), key::MAX_REASON)?;
    authority::act(needs::revoke, |caller| {
        let subject = LockedKey::lock(caller, &key_id)?;
        end_locked(caller, &subject, reason.as_deref().unwrap_or("revoked"))
    })?;
    Ok(None)
}

/// Revokes a secret key that was found where it should not be, in every keyspace
/// that has it. To have the key is enough for that.
fn report_leak(call: &Call) -> Result<Option<Datum>> {
    let unknown = || Error::not_found("api_key is not a key that could be revoked");
    let key = match call.bytes(0, MAX_KEY_LEN) {
        None => return Err(must_not_be_null("api_key")),
        Some(Bytes::TooLong) => return Err(unknown()),
        Some(Bytes::Read(key)) => key,
    };
    let source = call.required_text(1, "source")?;
    key::check_length("source", Some(&source), 500)?;
    // A key may be stored by a hash of only a part of it, or by another hash.
    let whole = Hashings { behind_bar: false, ..Hashings::ALL };
    let mut digests: Vec<KeyDigest> = whole.digests(key).collect();
    if foreign::behind_bar(key) != key {
        digests.push(KeyDigest::of(foreign::behind_bar(key)));
    }
    let candidates: Vec<_> =
        digests.iter().flat_map(|digest| pepper::peppers().candidates(digest)).collect();
    let revoked = authority::act(Needs::Nothing, |caller| {
        let mut keys: Vec<([u8; 16], String)> = Vec::new();
        for (generation, digest) in &candidates {
            keys.extend(spi::all(
                saved!(
                    "SELECT key_id, kind FROM keysmith_private.key
                     WHERE digest = $1 AND generation = $2 AND revoked_at IS NULL ORDER BY key_id"
                ),
                &[Param::bytes(digest), Param::smallint(*generation)],
                |row| Some((row.uuid(1)?, row.text(2)?)),
            )?);
        }
        if keys.is_empty() {
            return Err(unknown());
        }
        keys.retain(|(_, kind)| kind == "secret");
        if keys.is_empty() {
            return Err(Error::new(Code::Conflict, "api_key is publishable, and so no secret"));
        }
        for (key_id, _) in &keys {
            let everyones = Param::uuids(None);
            let subject = LockedKey::lock_within(everyones, Param::text_or_null(None), key_id)?;
            end_locked(caller, &subject, &format!("leaked: {source}"))?;
        }
        Ok(keys)
    })?;
    let result = ResultSet::of_values(call);
    revoked.iter().for_each(|(key_id, _)| result.put([Cell::uuid(key_id)]));
    Ok(None)
}
