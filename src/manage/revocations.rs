//! Revocations that a restore to the past would undo: lists what was ended or narrowed since a
//! moment, and does it again in the restored database.
//!
//! The list shows how things are now, not the acts that led there. Doing it again twice, or
//! for more than was lost, changes nothing. So callers can ask for a moment well before the
//! restore's, and the order does not matter.

use super::authority::{self, Caller};
use super::field::{Grants, Moment, Networks, Uuid, text_types};
use super::json;
use super::key;
use super::keyspace;
use super::level::functions;
use super::listing::put_all;
use super::locked_key::{LockedKey, end_locked};
use super::patch::{self, Patch};
use super::turns;
use crate::audit::{Act, Subject};
use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};
use pg::jsonb::Jsonb;
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

functions! {
    keysmith_revocations_since => revocations_since: Oversight;
    keysmith_replay_revocations => replay_revocations: Admin;
}

const NAME: &str = "revocations";
const HINT: &str = "SELECT jsonb_agg(r) FROM keysmith.revocations_since('…') r gives one.";

fn revocations_since(call: &Call) -> Result<Option<Datum>> {
    let since = call.timestamp(0).ok_or_else(|| must_not_be_null("since"))?;
    let params = [Param::timestamp(Some(since))];
    put_all(
        call,
        needs::revocations_since,
        "SELECT * FROM keysmith_private.ended_since($1)",
        &params,
    )
}

/// A row of `revocations_since`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    at: Option<Moment>,
    action: Action,
    keyspace: String,
    tenant: Option<String>,
    key_id: Option<Uuid>,
    name: Option<String>,
    reason: Option<Reason>,
    changes: Option<Changes>,
    /// Finds the tenant, whatever its name was at the moment that was restored.
    tenant_id: Option<Uuid>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Revoke,
    Disable,
    Alter,
    Suspend,
    RemoveMember,
    SetMember,
    DefineRole,
    DropKeyspace,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    #[serde(deserialize_with = "patch::not_null")]
    scopes: Patch<Grants>,
    role: Patch<String>,
    owner: Patch<String>,
    allowlist: Patch<Networks>,
    expires_at: Patch<Moment>,
}

text_types! {
    Reason: is_reason, format!("must have at most {} characters", key::MAX_REASON);
}

fn is_reason(text: &str) -> bool {
    text.chars().count() <= key::MAX_REASON
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Revoke => "revoke",
            Action::Disable => "disable",
            Action::Alter => "alter",
            Action::Suspend => "suspend",
            Action::RemoveMember => "remove_member",
            Action::SetMember => "set_member",
            Action::DefineRole => "define_role",
            Action::DropKeyspace => "drop_keyspace",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy)]
enum Replayed {
    Done,
    /// It is so, or it is narrower still.
    Already,
    /// It is not here: it was made after the moment that was restored.
    Unknown,
}

impl Replayed {
    fn name(self) -> &'static str {
        match self {
            Replayed::Done => "done",
            Replayed::Already => "already",
            Replayed::Unknown => "unknown",
        }
    }
}

impl Entry {
    /// Does it, unless it is done.
    fn replay(&self, caller: &Caller) -> Result<Replayed> {
        turns::keep_keyspace(&self.keyspace)?;
        let at = Param::timestamp(self.at.map(|at| at.0));
        let reason = Param::text_or_null(self.reason.as_ref().map(|reason| reason.0.as_str()));
        match self.action {
            Action::Revoke => self.on_key(
                caller,
                "UPDATE keysmith_private.key
                 SET revoked_at = least($2, pg_catalog.clock_timestamp()),
                     revoked_reason = coalesce($3, 'revoked')
                 WHERE key_id = $1",
                &[at, reason],
            ),
            Action::Disable => self.on_key(
                caller,
                "UPDATE keysmith_private.key SET disabled_at = least($2, pg_catalog.clock_timestamp())
                 WHERE key_id = $1 AND disabled_at IS NULL",
                &[at],
            ),
            Action::Alter => self.alter(caller),
            Action::Suspend => self.on_tenant(
                caller,
                None,
                "UPDATE keysmith_private.tenant
                 SET suspended_at = least($2, pg_catalog.clock_timestamp()), suspended_reason = $3
                 WHERE tenant_id = $1 AND suspended_at IS NULL",
                &[at, reason],
            ),
            Action::RemoveMember => {
                let member = self.name()?;
                self.on_tenant(
                    caller,
                    Some(member),
                    "DELETE FROM keysmith_private.member WHERE tenant_id = $1 AND member = $2",
                    &[Param::text(member)],
                )
            }
            Action::SetMember => {
                let member = self.name()?;
                let role = self.changes.as_ref().and_then(|changes| changes.role.text());
                let role = role.ok_or_else(|| must_not_be_null("changes.role"))?;
                self.check_role(Some(role))?;
                self.on_tenant(
                    caller,
                    Some(member),
                    "UPDATE keysmith_private.member SET role = $3
                     WHERE tenant_id = $1 AND member = $2 AND role <> $3",
                    &[Param::text(member), Param::text(role)],
                )
            }
            Action::DefineRole => self.define_role(caller),
            Action::DropKeyspace => self.end_keys(caller),
        }
    }

    fn name(&self) -> Result<&str> {
        self.name.as_deref().ok_or_else(|| must_not_be_null("name"))
    }

    /// A statement on the entry's key, `$1`, unless the key is revoked.
    fn on_key(&self, caller: &Caller, statement: &str, more: &[Param]) -> Result<Replayed> {
        let key_id = self.key_id.as_ref().ok_or_else(|| must_not_be_null("key_id"))?.0;
        let found = spi::first(
            "SELECT keyspace, revoked_at IS NOT NULL FROM keysmith_private.key WHERE key_id = $1
             FOR NO KEY UPDATE",
            &[Param::uuid(&key_id)],
            |row| Some((row.text(1)?, row.boolean(2))),
        )?;
        let Some((keyspace, is_revoked)) = found else { return Ok(Replayed::Unknown) };
        if is_revoked {
            return Ok(Replayed::Already);
        }
        let mut params = vec![Param::uuid(&key_id)];
        params.extend(more);
        self.apply(caller, &keyspace, Subject::Key(&key_id), statement, &params)
    }

    /// A statement on the entry's tenant, `$1`, or on a member of it.
    fn on_tenant(
        &self,
        caller: &Caller,
        member: Option<&str>,
        statement: &str,
        more: &[Param],
    ) -> Result<Replayed> {
        let tenant = self.tenant.as_deref().ok_or_else(|| must_not_be_null("tenant"))?;
        let found = spi::first(
            "SELECT tenant_id FROM keysmith_private.tenant 
             WHERE keyspace = $1 AND (name = $2 AND $3 IS NULL OR tenant_id = $3)
             FOR NO KEY UPDATE",
            &[
                Param::text(&self.keyspace),
                Param::text(tenant),
                Param::uuid_or_null(self.tenant_id.as_ref().map(|id| &id.0)),
            ],
            |row| row.uuid(1),
        )?;
        let Some(id) = found else {
            return Ok(Replayed::Unknown);
        };
        let mut params = vec![Param::uuid(&id)];
        params.extend(more);
        let subject = match member {
            None => Subject::Tenant(&id),
            Some(member) => Subject::Member { tenant_id: &id, member },
        };
        self.apply(caller, &self.keyspace, subject, statement, &params)
    }

    /// A key's fields become what they were, but it does not live longer for it.
    fn alter(&self, caller: &Caller) -> Result<Replayed> {
        let unchanged = Changes::default();
        let changes = self.changes.as_ref().unwrap_or(&unchanged);
        self.check_role(changes.role.text())?;
        let record = Value::Object(patch::columns(changes)?).to_string();
        self.on_key(
            caller,
            "UPDATE keysmith_private.key k
             SET scopes = n.scopes, role = n.role, owner = n.owner, allowlist = n.allowlist,
                 expires_at = least(k.expires_at, n.expires_at)
             FROM (SELECT n.* FROM keysmith_private.key o,
                       pg_catalog.jsonb_populate_record(o, $2::jsonb) n WHERE o.key_id = $1) n
             WHERE k.key_id = n.key_id
               AND (k.scopes, k.role, k.owner, k.allowlist, k.expires_at) IS DISTINCT FROM
                   (n.scopes, n.role, n.owner, n.allowlist, least(k.expires_at, n.expires_at))",
            &[Param::text(&record)],
        )
    }

    fn define_role(&self, caller: &Caller) -> Result<Replayed> {
        let role = self.name()?;
        let scopes = self.changes.as_ref().and_then(|changes| changes.scopes.value());
        let Grants(scopes) = scopes.ok_or_else(|| must_not_be_null("changes.scopes"))?;
        if !self.has_role(role)? {
            return Ok(Replayed::Unknown);
        }
        keyspace::lock(&self.keyspace)?;
        self.apply(
            caller,
            &self.keyspace,
            Subject::Role(role),
            "UPDATE keysmith_private.role SET scopes = $3
             WHERE keyspace = $1 AND role = $2 AND scopes <> $3",
            &[Param::text(&self.keyspace), Param::text(role), Param::texts(scopes)],
        )
    }

    /// Ends the keys of a keyspace that were made before it was dropped. Later keys are of a new keyspace
    /// of that name.
    fn end_keys(&self, caller: &Caller) -> Result<Replayed> {
        let at = self.at.as_ref().ok_or_else(|| must_not_be_null("at"))?.0;
        let keys = spi::all(
            "SELECT key_id, revoked_at IS NULL FROM keysmith_private.key
             WHERE keyspace = $1 AND created_at < $2 ORDER BY key_id",
            &[Param::text(&self.keyspace), Param::timestamp(Some(at))],
            |row| Some((row.uuid(1)?, row.boolean(2))),
        )?;
        let mut outcome = if keys.is_empty() { Replayed::Unknown } else { Replayed::Already };
        for (key_id, _) in keys.iter().filter(|(_, is_in_use)| *is_in_use) {
            end_locked(caller, &LockedKey::lock(caller, key_id)?, "its keyspace was dropped")?;
            outcome = Replayed::Done;
        }
        Ok(outcome)
    }

    fn has_role(&self, role: &str) -> Result<bool> {
        let found = spi::execute(
            "SELECT FROM keysmith_private.role WHERE keyspace = $1 AND role = $2",
            &[Param::text(&self.keyspace), Param::text(role)],
        )?;
        Ok(found > 0)
    }

    /// A role that does not exist here can't be given, and the key may not keep its wider
    /// rights. So it is an error, and the caller decides.
    fn check_role(&self, role: Option<&str>) -> Result<()> {
        match role {
            Some(role) if !self.has_role(role)? => {
                let shown: String = role.chars().take(200).collect();
                let keyspace: String = self.keyspace.chars().take(63).collect();
                let message = format!("role {shown:?} does not exist in keyspace {keyspace:?}");
                Err(Error::not_found(message).hint("Define it with keysmith.define_role first."))
            }
            _ => Ok(()),
        }
    }

    /// Tells what became of it.
    fn put(&self, outcome: Replayed, result: ResultSet) {
        result.put([
            Cell::text(self.action.name()),
            Cell::text(&self.keyspace),
            Cell::text_or_null(self.tenant.as_deref()),
            Cell::uuid_or_null(self.key_id.as_ref().map(|key_id| &key_id.0)),
            Cell::text_or_null(self.name.as_deref()),
            Cell::text(outcome.name()),
        ]);
    }

    /// Runs a statement that changes a row, or no row if nothing is left to do.
    fn apply(
        &self,
        caller: &Caller,
        keyspace: &str,
        subject: Subject,
        statement: &str,
        params: &[Param],
    ) -> Result<Replayed> {
        let act = Act::on(&caller.actor, keyspace, subject)?;
        if spi::execute(statement, params)? == 0 {
            return Ok(Replayed::Already);
        }
        act.done(self.action.name())?;
        Ok(Replayed::Done)
    }
}

fn replay_revocations(call: &Call) -> Result<Option<Datum>> {
    let given = call.jsonb(0).ok_or_else(|| must_not_be_null(NAME))?;
    let result = ResultSet::of(call);
    authority::act(needs::replay_revocations, |caller| {
        for (n, entry) in entries(given)?.into_iter().enumerate() {
            pgrx::check_for_interrupts!();
            let outcome = entry.replay(caller).map_err(|error| error.within(&place(n)))?;
            entry.put(outcome, result);
        }
        Ok(())
    })?;
    Ok(None)
}

/// Reads all elements of the argument before the first is done. PostgreSQL takes the array
/// apart: the number of elements is not bounded, the size of each is.
fn entries(given: Jsonb) -> Result<Vec<Entry>> {
    const MOST: usize = 256 * 1024;
    let params = [Param::jsonb(Some(given))];
    let is_array = "SELECT pg_catalog.jsonb_typeof($1) = 'array'";
    if spi::first(is_array, &params, |row| row.boolean(1).then_some(()))?.is_none() {
        return Err(Error::argument(NAME, "must be an array").hint(HINT));
    }
    let read = |(n, row): (usize, spi::ResultRow)| {
        let text = row.text(1).filter(|text| text.len() <= MOST).ok_or_else(|| {
            Error::argument(&place(n), format!("must be UTF-8 text of at most {MOST} bytes"))
        })?;
        json::from_text(&place(n), &text)
    };
    spi::query("SELECT e::text FROM pg_catalog.jsonb_array_elements($1) e", &params, |rows| {
        rows.iter().enumerate().map(read).collect()
    })?
}

fn place(n: usize) -> String {
    format!("{NAME}[{n}]")
}
