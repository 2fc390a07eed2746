//! The active keys of a tenant: how many it may have, and their labels.

use super::authority::Caller;
use super::tenant::Tenant;
use super::turns;
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns::key as column};
use keysmith_core::policy::lifetime::Life;
use pg::error::{Code, Error, Result};
use pg::scan::{Row, ScanKey, Snapshot};
use pg::{clock, text};

/// Finds the keys that a new key of a tenant replaces, by the keyspace's limit of active keys. An
/// error if the keyspace replaces none. Sessions take turns and count rows as they are now, so each
/// counts the keys that the others added. Keys that the caller does not reach count, and are never
/// replaced.
pub fn make_room(caller: &Caller, policy: &Policy, tenant: &Tenant) -> Result<Vec<[u8; 16]>> {
    let Some(most) = policy.max_active_keys else { return Ok(Vec::new()) };
    one_at_a_time(&tenant.id)?;
    let mut counting = counting_keys(caller, policy, tenant)?;
    let excess = (counting.len() + 1).saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
    counting.truncate(excess);
    if excess > 0 && !policy.replaces_at_max || counting.iter().any(|(_, is_reached)| !is_reached) {
        let message = format!("the tenant has reached the keyspace's limit of active keys, {most}");
        return Err(Error::new(Code::Conflict, message)
            .hint("Revoke one, or rotate one: a key in its grace does not count."));
    }
    Ok(counting.into_iter().map(|(key_id, _)| key_id).collect())
}

/// Acts that depend on the number of a tenant's keys take turns.
pub fn one_at_a_time(tenant_id: &[u8; 16]) -> Result<()> {
    turns::of_id(Catalog::open()?.tables.tenant.table, tenant_id);
    Ok(())
}

/// The active keys of a tenant, the oldest first, each with whether the caller reaches it.
fn counting_keys(
    caller: &Caller,
    policy: &Policy,
    tenant: &Tenant,
) -> Result<Vec<([u8; 16], bool)>> {
    let mut counting = Vec::new();
    each_counting(policy, tenant, |row| {
        let environment = row.bytes(column::environment).unwrap_or_default();
        let is_reached = caller.reaches_environment(environment);
        counting.extend(row.uuid(column::key_id).map(|key_id| (key_id, is_reached)));
    })?;
    Ok(counting)
}

/// Passes the rows of a tenant's active keys, the oldest first. A key with a successor is in its
/// grace, and does not count.
fn each_counting(policy: &Policy, tenant: &Tenant, mut with: impl FnMut(&Row)) -> Result<()> {
    let table = Catalog::open()?.tables.key_by_tenant;
    let snapshot = Snapshot::now();
    let keys = table.open();
    let mut scan = keys.scan(&snapshot, [ScanKey::uuid(column::tenant_id, &tenant.id)]);
    let now = clock::now();
    while let Some(row) = scan.next() {
        let life = Life {
            created_at: row.timestamp(column::created_at).unwrap_or(now),
            expires_at: row.timestamp(column::expires_at),
            tenants: tenant.max_lifetime,
            keyspaces: policy.max_lifetime,
        };
        let is_over =
            !row.is_null(column::revoked_at) || life.end().is_some_and(|moment| moment <= now);
        if !is_over && row.is_null(column::rotated_to) {
            with(&row);
        }
    }
    Ok(())
}

/// Checks that no other key of the tenant and environment has a label, if the keyspace has unique
/// labels. Only keys count that `make_room` counts: a label is free when its key has ended.
pub fn check_label_is_free(
    policy: &Policy,
    tenant: &Tenant,
    environment: &str,
    label: Option<&str>,
    own: Option<&[u8; 16]>,
) -> Result<()> {
    let Some(label) = label.filter(|_| policy.has_unique_labels) else { return Ok(()) };
    one_at_a_time(&tenant.id)?;
    let (environment, shown) = (environment.as_bytes(), label);
    let label = text::to_server(label);
    let mut taken = false;
    each_counting(policy, tenant, |row| {
        taken |= row.bytes(column::label) == Some(label.as_bytes())
            && row.bytes(column::environment) == Some(environment)
            && row.uuid(column::key_id).as_ref() != own;
    })?;
    if taken {
        let message = format!("the tenant has another key with the label {shown:?}");
        return Err(Error::new(Code::Conflict, message).hint(
            "Labels of the keyspace are unique. Revoke that key, or name this one otherwise.",
        ));
    }
    Ok(())
}
