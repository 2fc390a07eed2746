//! Functions that return rows: keys, without digests and secrets, and other lists.

use super::authority;
use super::level::{Needs, functions};
use super::tenant::Tenant;
use pg::call::Call;
use pg::error::Result;
use pg::result_set::ResultSet;
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;

functions! {
    keysmith_list_keys => list_keys: Sight;
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

fn list_keys(call: &Call) -> Result<Option<Datum>> {
    let tenant = call.required_text(0, "tenant")?;
    let keyspace = call.required_text(1, "keyspace")?;
    let include_revoked = call.boolean(2, "include_revoked")?;
    let result = ResultSet::of(call);
    authority::look(needs::list_keys, |caller| {
        caller.must_manage()?;
        let tenant_id = Tenant::find(caller, &tenant, &keyspace)?.id;
        spi::query(
            "SELECT v.* FROM keysmith_private.key k JOIN keysmith_private.key_listing v USING (key_id)
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
