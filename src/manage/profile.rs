//! `whoami`: describes the key that the transaction acts for.

use crate::catalog::Catalog;
use crate::identity::{self, Identity};
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_whoami => whoami;
}

fn whoami(_: &Call) -> Result<Option<Datum>> {
    identity::current()?.map_or(Ok(None), |identity| of(&identity))
}

/// The profile as a jsonb. `metadata` is the tenant's, as an account's profile has it.
fn of(identity: &Identity) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    let effective: Vec<String> =
        identity.held(|held| held.effective().into_iter().map(pg::text::lossy).collect());
    catalog.as_owner(|| {
        spi::query_now(
            "SELECT pg_catalog.jsonb_build_object(
                 'key_id', k.key_id, 'display_id', k.display_id, 'label', k.label,
                 'key_prefix', k.key_prefix, 'key_snippet', k.key_snippet,
                 'kind', k.kind, 'environment', k.environment, 'keyspace', k.keyspace,
                 'owner', k.owner, 'role', coalesce(k.role, m.role), 'scopes', $2,
                 'created_at', k.created_at, 'expires_at', k.expires_at,
                 'key_metadata', k.metadata, 'tenant', t.name, 'tenant_id', t.tenant_id,
                 'plan', t.plan, 'metadata', t.metadata, 'credits', CASE
                     WHEN c.refilled_at NOT BETWEEN
                              pg_catalog.date_trunc(c.every, pg_catalog.clock_timestamp(), 'UTC')
                              AND pg_catalog.clock_timestamp() + '24 hours'
                     THEN greatest(c.balance, c.refill)
                     ELSE c.balance
                 END)
             FROM keysmith_private.key k
             JOIN keysmith_private.tenant t ON t.tenant_id = k.tenant_id
             -- Those of the key that gave it, or its own, or else its tenant's: those that it
             -- spends.
             LEFT JOIN keysmith_private.credit c ON c.credit_id = coalesce(
                 (SELECT own.credit_id FROM keysmith_private.credit own
                  WHERE own.key_id = coalesce(k.purse, k.origin, k.key_id)),
                 (SELECT shared.credit_id FROM keysmith_private.credit shared
                  WHERE shared.tenant_id = t.tenant_id AND k.purse IS NULL))
             LEFT JOIN keysmith_private.member m ON m.tenant_id = k.tenant_id AND m.member = k.owner
             WHERE k.key_id = $1",
            &[Param::uuid(&identity.key_id), Param::texts(&effective)],
            |rows| rows.first().and_then(|row| row.transferred(1)),
        )
    })
}
