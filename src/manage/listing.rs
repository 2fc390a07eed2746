//! Functions that return rows: keys, without digests and secrets, and other lists.

use super::authority;
use super::draft;
use super::errors::unknown_key;
use super::level::{Needs, functions};
use super::tenant::Tenant;
use crate::catalog::Catalog;
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::result_set::ResultSet;
use pg::settings::in_utc;
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_list_keys => list_keys: Sight;
}

/// The condition for keys of a tenant, `$1`, that the caller reaches and a filter admits.
macro_rules! listed {
    () => {
        "k.tenant_id = $1 AND ($2 IS NULL OR k.environment = $2) AND ($3 OR k.revoked_at IS NULL)
         AND ($4 IS NULL OR $4 = keysmith_private.key_status(
             k.revoked_at, least(k.expires_at, k.created_at + (
                 SELECT least(t.max_lifetime, s.max_lifetime)
                 FROM keysmith_private.tenant t JOIN keysmith_private.keyspace s USING (keyspace)
                 WHERE t.tenant_id = $1)), k.disabled_at, k.disabled_reason,
             pg_catalog.clock_timestamp()))
         AND ($5 IS NULL OR k.kind = $5) AND ($6 IS NULL OR k.environment = $6)"
    };
}

/// One key, as `alter_key` returns it.
pub fn entry(key_id: &[u8; 16]) -> Result<Option<Datum>> {
    spi::first(
        saved!(
            "SELECT ROW(k.*)::keysmith_private.listed_key
             FROM keysmith_private.key_listing k WHERE key_id = $1"
        ),
        &[Param::uuid(key_id)],
        |row| row.transferred(1),
    )
}

/// A key as JSON with times in UTC, for callers who may see it.
pub fn as_json(key_id: &[u8; 16]) -> Result<Option<String>> {
    Catalog::open()?.as_owner(|| json_within(Param::uuids(None), Param::text_or_null(None), key_id))
}

/// A key as JSON with times in UTC. It is the acting key, or one that the caller manages.
pub fn shown(key_id: &[u8; 16]) -> Result<Option<String>> {
    authority::look(Needs::Sight, |caller| {
        let acting = caller.identity.as_ref().and_then(|identity| identity.key.as_ref());
        if acting.is_none_or(|key| key.id != *key_id) {
            caller.must_manage()?;
        }
        let found = json_within(caller.tenants(), caller.environment(), key_id)?;
        found.map_or_else(|| Err(unknown_key(key_id)), |json| Ok(Some(json)))
    })
}

fn json_within(tenants: Param, environment: Param, key_id: &[u8; 16]) -> Result<Option<String>> {
    in_utc();
    spi::first(
        saved!(
            "SELECT pg_catalog.row_to_json(v)
             FROM keysmith_private.key k JOIN keysmith_private.key_listing v USING (key_id)
             WHERE k.key_id = $1 AND ($2 IS NULL OR k.tenant_id = ANY ($2))
               AND ($3 IS NULL OR k.environment = $3)"
        ),
        &[Param::uuid(key_id), tenants, environment],
        |row| row.text(1),
    )
}

/// Which keys a page shows; a field that is `None` admits all.
pub struct Filter<'a> {
    pub include_revoked: bool,
    pub status: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub environment: Option<&'a str>,
}

/// A page of the keys that `list_keys` returns, as JSON with times in UTC, and the number of all of
/// them.
pub fn page(
    tenant_id: &[u8; 16],
    keyspace: &str,
    filter: &Filter,
    limit: i64,
    skip: i64,
) -> Result<(i64, Vec<String>)> {
    const STATUSES: [&str; 5] = ["active", "disabled", "idle", "expired", "revoked"];
    if filter.status.is_some_and(|status| !STATUSES.contains(&status)) {
        return Err(Error::argument("status", format!("must be one of {}", STATUSES.join(", "))));
    }
    filter.kind.map_or(Ok(()), |kind| draft::kind(kind.into()).map(|_| ()))?;
    authority::look(needs::list_keys, |caller| {
        caller.must_manage()?;
        if !caller.reaches(tenant_id, keyspace) {
            return Err(Error::not_found("there is no such tenant"));
        }
        in_utc();
        let params = [
            Param::uuid(tenant_id),
            caller.environment(),
            Param::boolean(filter.include_revoked),
            Param::text_or_null(filter.status),
            Param::text_or_null(filter.kind),
            Param::text_or_null(filter.environment),
            Param::bigint(Some(limit)),
            Param::bigint(Some(skip)),
        ];
        let total = spi::first(
            saved!(concat!(
                "SELECT pg_catalog.count(*) FROM keysmith_private.key k WHERE ",
                listed!()
            )),
            &params[..6],
            |row| row.bigint(1),
        )?;
        let keys = spi::all(
            saved!(concat!(
                "SELECT pg_catalog.row_to_json(v)
                 FROM (SELECT k.key_id, k.created_at FROM keysmith_private.key k WHERE ",
                listed!(),
                " ORDER BY k.created_at, k.key_id LIMIT $7 OFFSET $8) p
                 CROSS JOIN LATERAL (SELECT a.* FROM keysmith_private.all_keys a
                                     WHERE a.key_id = p.key_id AND a.tenant_id = $1 OFFSET 0) v
                 ORDER BY p.created_at, p.key_id"
            )),
            &params,
            |row| row.text(1),
        )?;
        Ok((total.unwrap_or_default(), keys))
    })
}

/// The only active key of a tenant. An error without an active key, and with several.
pub fn only_active(tenant_id: &[u8; 16]) -> Result<[u8; 16]> {
    Catalog::open()?.as_owner(|| {
        let found = spi::all(
            "SELECT a.key_id FROM keysmith_private.all_keys a
             WHERE a.tenant_id = $1 AND a.status = 'active' LIMIT 2",
            &[Param::uuid(tenant_id)],
            |row| row.uuid(1),
        )?;
        match found[..] {
            [key_id] => Ok(key_id),
            [] => Err(Error::not_found("there is no active key")),
            _ => Err(Error::new(Code::Conflict, "there is more than one active key")),
        }
    })
}

/// The key of a tenant that has this display id.
pub fn named(tenant_id: &[u8; 16], keyspace: &[u8], id: &str) -> Result<Option<[u8; 16]>> {
    Catalog::open()?.as_owner(|| {
        spi::first(
            "SELECT key_id FROM keysmith_private.key
             WHERE keyspace = $1 AND display_id = $2 AND tenant_id = $3",
            &[Param::server_text(Some(keyspace)), Param::text(id), Param::uuid(tenant_id)],
            |row| row.uuid(1),
        )
    })
}

fn list_keys(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let keyspace = call.required_text(1, "keyspace")?;
    let include_revoked = call.boolean(2, "include_revoked")?;
    let result = ResultSet::of(call);
    authority::look(needs::list_keys, |caller| {
        caller.must_manage()?;
        let tenant_id = Tenant::find(caller, &tenant, &keyspace)?.id;
        // The view has volatile functions, so the planner does not take it apart: joined by its key_id
        // in the usual way, it would be computed for all keys.
        spi::query(
            "SELECT v.* FROM keysmith_private.key k
             CROSS JOIN LATERAL (SELECT l.* FROM keysmith_private.key_listing l
                                 WHERE l.key_id = k.key_id OFFSET 0) v
             WHERE k.tenant_id = $1 AND ($2 OR k.revoked_at IS NULL)
               AND ($3 IS NULL OR k.environment = $3)
             ORDER BY k.created_at, k.key_id",
            &[Param::uuid(&tenant_id), Param::boolean(include_revoked), caller.environment()],
            |rows| rows.put_into(result),
        )
    })?;
    Ok(None)
}

/// Returns the rows of a statement, of all tenants.
pub fn put_all(
    call: &Call,
    needs: Needs,
    statement: &str,
    params: &[Param],
) -> Result<Option<Datum>> {
    let result = ResultSet::of(call);
    authority::look(needs, |_| spi::query(statement, params, |rows| rows.put_into(result)))?;
    Ok(None)
}
