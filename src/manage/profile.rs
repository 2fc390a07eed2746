//! `whoami`: describes the key or person that the transaction acts for.

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
        identity.held(|held| held.effective().iter().map(|scope| pg::text::lossy(scope)).collect());
    let scopes = Param::texts(&effective);
    let (statement, params) = match &identity.key {
        Some(key) => (
            "SELECT keysmith_private.profile($1, $2, $3)",
            vec![Param::uuid(&key.id), scopes, Param::timestamp(identity.expires_at)],
        ),
        None => {
            let [member, role] = [&identity.owner, &identity.roles[1]]
                .map(|text| Param::server_text(text.as_deref()));
            (
                "SELECT keysmith_private.profile_of_person($1, $2, $3, $4)",
                vec![Param::uuid(&identity.tenant_id), member, role, scopes],
            )
        }
    };
    catalog.as_owner(|| {
        spi::query_now(statement, &params, |rows| rows.first().and_then(|row| row.transferred(1)))
    })
}
