//! What a restore to the past would undo: what was ended or narrowed since a moment, and
//! how a restored database does it again.
//!
//! What is listed is how things are now, not the acts that led there: doing it again
//! twice, or to more than was lost, changes nothing. So callers can ask for a moment well
//! before the restore's, and need no order.

use super::alter;
use super::authority::{self, Caller, Needs};
use super::key;
use super::keyspace;
use super::listing::put_all;
use super::patch::{Change, Patch};
use crate::audit::{Act, Subject};
use keysmith_core::policy::scope::is_grant;
use pg::call::{Call, must_not_be_null, sql_functions};
use pg::error::{Error, Result};
use pg::input;
use pg::jsonb::Jsonb;
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;
use serde_json::Value;

sql_functions! {
    keysmith_revocations_since => revocations_since;
    keysmith_replay_revocations => replay_revocations;
}

const NAME: &str = "revocations";

fn revocations_since(call: &Call) -> Result<Option<Datum>> {
    let since = call.timestamp(0).ok_or_else(|| must_not_be_null("since"))?;
    let params = [Param::timestamp(Some(since))];
    put_all(call, "SELECT * FROM keysmith_private.ended_since($1)", &params)
}

/// One line of what `revocations_since` gave.
struct Entry {
    at: Option<i64>,
    action: String,
    keyspace: String,
    tenant: Option<String>,
    key_id: Option<[u8; 16]>,
    name: Option<String>,
    reason: Option<String>,
    changes: Changes,
}

#[derive(Default)]
struct Changes {
    scopes: Option<Vec<String>>,
    role: Change<String>,
    owner: Change<String>,
    allowlist: Option<Vec<String>>,
    expires_at: Change<i64>,
}

/// What came of it.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    /// It is so, or it is narrower still.
    Already,
    /// It is not here: it was made after the moment that was restored.
    Unknown,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Already => "already",
            Outcome::Unknown => "unknown",
        }
    }
}

impl Entry {
    fn read(value: Value) -> Result<Entry> {
        let Value::Object(fields) = value else { return Err(unreadable()) };
        let mut fields = Patch::new(NAME, fields);
        let mut text = |field| fields.text(field).map(Option::flatten);
        let at = text("at")?.map(|at| alter::timestamp("revocations.at", &at)).transpose()?;
        let action = text("action")?.ok_or_else(unreadable)?;
        let keyspace = text("keyspace")?.ok_or_else(unreadable)?;
        let tenant = text("tenant")?;
        let key_id = text("key_id")?.map(|id| uuid(&id)).transpose()?;
        let name = text("name")?;
        let reason = text("reason")?;
        key::check_length("revocations.reason", reason.as_deref(), 1000)?;
        let changes = match fields.value("changes")? {
            None | Some(Value::Null) => Changes::default(),
            Some(value) => Changes::read(value)?,
        };
        fields.finish()?;
        Ok(Entry { at, action, keyspace, tenant, key_id, name, reason, changes })
    }

    /// Does it, unless it is done.
    fn replay(&self, caller: &Caller) -> Result<Outcome> {
        match self.action.as_str() {
            "revoke" => self.on_key(
                caller,
                "UPDATE keysmith_private.key
                 SET revoked_at = least($2, pg_catalog.clock_timestamp()),
                     revoked_reason = coalesce($3, 'revoked')
                 WHERE key_id = $1",
                vec![Param::timestamp(self.at), Param::text_or_null(self.reason.as_deref())],
            ),
            "disable" => self.on_key(
                caller,
                "UPDATE keysmith_private.key SET disabled_at = least($2, pg_catalog.clock_timestamp())
                 WHERE key_id = $1 AND disabled_at IS NULL",
                vec![Param::timestamp(self.at)],
            ),
            "alter" => self.alter(caller),
            "suspend" => self.on_tenant(
                caller,
                Subject::Tenant,
                "UPDATE keysmith_private.tenant
                 SET suspended_at = least($2, pg_catalog.clock_timestamp()), suspended_reason = $3
                 WHERE tenant_id = $1 AND suspended_at IS NULL",
                vec![Param::timestamp(self.at), Param::text_or_null(self.reason.as_deref())],
            ),
            "remove_member" => {
                let member = self.name.as_deref().ok_or_else(unreadable)?;
                self.on_tenant(
                    caller,
                    |tenant| Subject::Member { tenant, member },
                    "DELETE FROM keysmith_private.member WHERE tenant_id = $1 AND member = $2",
                    vec![Param::text(member)],
                )
            }
            "set_member" => {
                let member = self.name.as_deref().ok_or_else(unreadable)?;
                let role = self.changes.role.as_ref().and_then(Option::as_deref);
                let role = role.ok_or_else(unreadable)?;
                self.check_role(Some(role))?;
                self.on_tenant(
                    caller,
                    |tenant| Subject::Member { tenant, member },
                    "UPDATE keysmith_private.member SET role = $3
                     WHERE tenant_id = $1 AND member = $2 AND role <> $3",
                    vec![Param::text(member), Param::text(role)],
                )
            }
            "define_role" => self.define_role(caller),
            other => {
                let shown: String = other.chars().take(60).collect();
                Err(Error::argument(NAME, format!("has the unknown action {shown:?}")).hint(
                    "The actions are: revoke, disable, alter, suspend, remove_member, set_member, \
                     define_role.",
                ))
            }
        }
    }

    /// A statement on the entry's key, `$1`, unless that is over.
    fn on_key(&self, caller: &Caller, statement: &str, more: Vec<Param>) -> Result<Outcome> {
        let key_id = self.key_id.ok_or_else(unreadable)?;
        let found = spi::first(
            "SELECT keyspace, revoked_at IS NOT NULL FROM keysmith_private.key WHERE key_id = $1
             FOR NO KEY UPDATE",
            &[Param::uuid(&key_id)],
            |row| Some((row.text(1)?, row.boolean(2))),
        )?;
        let Some((keyspace, is_revoked)) = found else { return Ok(Outcome::Unknown) };
        if is_revoked {
            return Ok(Outcome::Already);
        }
        let mut params = vec![Param::uuid(&key_id)];
        params.extend(more);
        self.apply(caller, &keyspace, Subject::Key(&key_id), statement, &params)
    }

    /// A statement on the entry's tenant, `$1`.
    fn on_tenant<'a>(
        &'a self,
        caller: &Caller,
        subject: impl FnOnce(&'a str) -> Subject<'a>,
        statement: &str,
        more: Vec<Param>,
    ) -> Result<Outcome> {
        let tenant = self.tenant.as_deref().ok_or_else(unreadable)?;
        let found = spi::first(
            "SELECT tenant_id FROM keysmith_private.tenant WHERE keyspace = $1 AND name = $2
             FOR NO KEY UPDATE",
            &[Param::text(&self.keyspace), Param::text(tenant)],
            |row| row.uuid(1),
        )?;
        let Some(id) = found else {
            return Ok(Outcome::Unknown);
        };
        let mut params = vec![Param::uuid(&id)];
        params.extend(more);
        self.apply(caller, &self.keyspace, subject(tenant), statement, &params)
    }

    /// A key's fields become what they were, but it does not live longer for it.
    fn alter(&self, caller: &Caller) -> Result<Outcome> {
        let Changes { scopes, role, owner, allowlist, expires_at } = &self.changes;
        self.check_role(role.as_ref().and_then(Option::as_deref))?;
        if scopes.iter().flatten().any(|scope| !is_grant(scope)) {
            return Err(Error::argument("revocations.changes.scopes", "must be scopes"));
        }
        fn given(text: &Change<String>) -> (Param<'_>, Param<'_>) {
            let value = text.as_ref().and_then(Option::as_deref);
            (Param::boolean(text.is_some()), Param::text_or_null(value))
        }
        let ((has_role, role), (has_owner, owner)) = (given(role), given(owner));
        self.on_key(
            caller,
            "UPDATE keysmith_private.key k
             SET scopes = n.scopes, role = n.role, owner = n.owner, allowlist = n.allowlist,
                 expires_at = n.expires_at
             FROM (SELECT key_id,
                       CASE WHEN $2 THEN $3 ELSE scopes END AS scopes,
                       CASE WHEN $4 THEN $5 ELSE role END AS role,
                       CASE WHEN $6 THEN $7 ELSE owner END AS owner,
                       CASE WHEN $8 THEN nullif($9::cidr[], '{}') ELSE allowlist END AS allowlist,
                       least(expires_at, $10) AS expires_at
                   FROM keysmith_private.key WHERE key_id = $1) n
             WHERE k.key_id = n.key_id
               AND (k.scopes, k.role, k.owner, k.allowlist, k.expires_at)
                   IS DISTINCT FROM (n.scopes, n.role, n.owner, n.allowlist, n.expires_at)",
            vec![
                Param::boolean(scopes.is_some()),
                Param::texts(scopes.as_deref().unwrap_or_default()),
                has_role,
                role,
                has_owner,
                owner,
                Param::boolean(allowlist.is_some()),
                Param::texts(allowlist.as_deref().unwrap_or_default()),
                Param::timestamp(expires_at.flatten()),
            ],
        )
    }

    fn define_role(&self, caller: &Caller) -> Result<Outcome> {
        let role = self.name.as_deref().ok_or_else(unreadable)?;
        let scopes = self.changes.scopes.as_deref().ok_or_else(unreadable)?;
        if !self.has_role(role)? {
            return Ok(Outcome::Unknown);
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

    fn has_role(&self, role: &str) -> Result<bool> {
        let found = spi::execute(
            "SELECT FROM keysmith_private.role WHERE keyspace = $1 AND role = $2",
            &[Param::text(&self.keyspace), Param::text(role)],
        )?;
        Ok(found > 0)
    }

    /// A role that is not here can't be given, and what is wider may not stay: that is
    /// for the caller to settle.
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
    fn put(&self, outcome: Outcome, result: ResultSet) {
        result.put([
            Cell::text(&self.action),
            Cell::text(&self.keyspace),
            Cell::text_or_null(self.tenant.as_deref()),
            Cell::uuid_or_null(self.key_id.as_ref()),
            Cell::text_or_null(self.name.as_deref()),
            Cell::text(outcome.name()),
        ]);
    }

    /// Runs a statement that changes a row, or none if it is as it should be.
    fn apply(
        &self,
        caller: &Caller,
        keyspace: &str,
        subject: Subject,
        statement: &str,
        params: &[Param],
    ) -> Result<Outcome> {
        let act = Act::on(&caller.actor, keyspace, subject)?;
        if spi::execute(statement, params)? == 0 {
            return Ok(Outcome::Already);
        }
        act.done(&self.action)?;
        Ok(Outcome::Done)
    }
}

impl Changes {
    fn read(value: Value) -> Result<Changes> {
        let Value::Object(fields) = value else { return Err(unreadable()) };
        let mut fields = Patch::new("revocations.changes", fields);
        let changes = Changes {
            scopes: fields.list("scopes")?,
            role: fields.text("role")?,
            owner: fields.text("owner")?,
            allowlist: fields.texts("allowlist")?.map(alter::networks).transpose()?,
            expires_at: match fields.text("expires_at")? {
                Some(Some(text)) => {
                    Some(Some(alter::timestamp("revocations.changes.expires_at", &text)?))
                }
                other => other.map(|_| None),
            },
        };
        fields.finish()?;
        Ok(changes)
    }
}

fn replay_revocations(call: &Call) -> Result<Option<Datum>> {
    let given = call.jsonb(0).ok_or_else(|| must_not_be_null(NAME))?;
    let result = ResultSet::of(call);
    authority::act(Needs::Admin, |caller| {
        for entry in entries(given)? {
            pgrx::check_for_interrupts!();
            let outcome = entry.replay(caller)?;
            entry.put(outcome, result);
        }
        Ok(())
    })?;
    Ok(None)
}

/// The elements of the argument, all read before the first is done. They are taken
/// apart by PostgreSQL: as many as there are, each of a size that is bounded.
fn entries(given: Jsonb) -> Result<Vec<Entry>> {
    const MOST: usize = 256 * 1024;
    let params = [Param::jsonb(Some(given))];
    let is_array = "SELECT pg_catalog.jsonb_typeof($1) = 'array'";
    if spi::first(is_array, &params, |row| row.boolean(1).then_some(()))?.is_none() {
        return Err(unreadable());
    }
    let read = |row: spi::Row| {
        let text = row.text(1).filter(|text| text.len() <= MOST).ok_or_else(unreadable)?;
        Entry::read(serde_json::from_str(&text).map_err(|_| unreadable())?)
    };
    spi::query("SELECT e::text FROM pg_catalog.jsonb_array_elements($1) e", &params, |rows| {
        rows.iter().map(read).collect()
    })?
}

fn unreadable() -> Error {
    Error::argument(NAME, "must be an array of objects as revocations_since returns them")
        .hint("SELECT jsonb_agg(r) FROM keysmith.revocations_since('…') r gives one.")
}

fn uuid(text: &str) -> Result<[u8; 16]> {
    input::uuid(text).ok_or_else(|| Error::argument("revocations.key_id", "must be a uuid"))
}
