//! `drop_keyspace`: removes a keyspace with all that belongs to it. Its chain of the audit stays.
//!
//! Each act in a keyspace keeps it until the transaction ends. So a drop waits for those in progress
//! first, and then nobody else has locked a row of it, except requests that spend credits.

use super::authority::{self, Caller};
use super::changes;
use super::erase::must_see_others;
use super::keyspace::policy;
use super::level::Needs;
use super::tenant::tables_with_names;
use super::turns;
use crate::audit::{Act, Subject};
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::notice::warning;
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;

/// Takes away the access that is bound to a keyspace.
type Unbind = fn(&Caller, &str) -> Result<()>;

pub fn run(call: &Call, needs: Needs, unbind: Unbind) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    let cascade = call.boolean(1, "cascade")?;
    authority::act(needs, |caller| {
        must_see_others("a keyspace is dropped")?;
        // `grant_access` takes these turns in the same order.
        changes::one_at_a_time()?;
        turns::take_keyspace(&keyspace)?;
        policy(caller, &keyspace)?;
        let act = Act::on(&caller.actor, &keyspace, Subject::Keyspace)?;
        let held = Held::of(&keyspace)?;
        if held.usable_keys > 0 && !cascade {
            return Err(held.refusal(&keyspace));
        }
        unbind(caller, &keyspace)?;
        if let Some(tables) = tables_with_names(&keyspace)? {
            let message = format!("rows that name tenants of the keyspace stay: {tables}");
            let hint = "A tenant of that name in a new keyspace of that name would see them.";
            warning(message, Some(hint.into()));
        }
        // The event needs the keyspace's channel.
        act.done_with("drop_keyspace", &held.counts)?;
        spi::execute("SELECT keysmith_private.drop_all($1)", &[Param::text(&keyspace)])?;
        Ok(())
    })?;
    Ok(None)
}

/// What a keyspace holds.
#[derive(Default)]
struct Held {
    /// Keys that are neither revoked nor expired. A disabled one may be enabled again.
    usable_keys: i64,
    /// The numbers of tenants and keys, as JSON.
    counts: String,
}

impl Held {
    fn of(keyspace: &str) -> Result<Held> {
        let found = spi::query_now(
            "SELECT pg_catalog.count(k.key_id) FILTER (
                        WHERE k.revoked_at IS NULL AND coalesce(
                            least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime)
                            > pg_catalog.clock_timestamp(), true)),
                    pg_catalog.jsonb_build_object('keys', pg_catalog.count(k.key_id),
                        'tenants', pg_catalog.count(DISTINCT t.tenant_id))::text
             FROM keysmith_private.keyspace s
             LEFT JOIN keysmith_private.tenant t ON t.keyspace = s.keyspace
             LEFT JOIN keysmith_private.key k ON k.tenant_id = t.tenant_id
             WHERE s.keyspace = $1",
            &[Param::text(keyspace)],
            |rows| {
                let row = rows.first()?;
                Some(Held { usable_keys: row.bigint(1)?, counts: row.text(2)? })
            },
        )?;
        Ok(found.unwrap_or_default())
    }

    fn refusal(&self, keyspace: &str) -> Error {
        let keys = match self.usable_keys {
            1 => "a key that is".into(),
            number => format!("{number} keys that are"),
        };
        let message = format!("keyspace {keyspace:?} has {keys} neither revoked nor expired");
        Error::new(Code::Conflict, message)
            .hint("Revoke its keys first, or drop it with cascade => true.")
    }
}
