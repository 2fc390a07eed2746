//! A restore to an earlier moment undoes revocations and other restrictions. `revocations_since` lists
//! those made since a moment, and `replay_revocations` makes them again in the restored database.
//!
//! The list shows the present state, not the acts that led to it. To replay it twice, or more of it
//! than was lost, changes nothing. So callers can ask for a moment well before that of the backup, and
//! the order does not matter.

use super::alter;
use super::authority::{self, Caller};
use super::key;
use super::keyspace;
use super::level::functions;
use super::listing::put_all;
use super::patch::{Change, Patch};
use crate::audit::{Act, Subject};
use keysmith_core::policy::scope::is_grant;
use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};
use pg::input;
use pg::jsonb::Jsonb;
use pg::result_set::{Cell, ResultSet};
use pg::spi::{self, Param};
use pgrx::pg_sys::Datum;
use serde_json::Value;

functions! {
    keysmith_revocations_since => revocations_since: Oversight;
    keysmith_replay_revocations => replay_revocations: Admin;
}

const NAME: &str = "revocations";

fn revocations_since(call: &Call) -> Result<Option<Datum>> {
    let since = call.timestamp(0).ok_or_else(|| must_not_be_null("since"))?;
    put_all(call, needs::revocations_since, SINCE, &[Param::timestamp(Some(since))])
}

/// Ends have a moment in their own row. Whether what was changed is narrower is a
/// matter of roles, plans and defaults: all that an act changed is listed.
const SINCE: &str = "
    SELECT k.revoked_at AS at, 'revoke'::text AS action, k.keyspace::text, t.name::text AS tenant,
           k.key_id, NULL::text AS name, k.revoked_reason AS reason, NULL::jsonb AS changes
    FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id)
    WHERE k.revoked_at >= $1
    UNION ALL
    SELECT k.disabled_at, 'disable', k.keyspace, t.name, k.key_id, NULL, NULL, NULL
    FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id)
    WHERE k.disabled_at >= $1 AND k.revoked_at IS NULL
    UNION ALL
    SELECT pg_catalog.max(a.at), 'alter', k.keyspace, k.tenant, k.key_id, NULL, NULL,
           pg_catalog.jsonb_object_agg(field, pg_catalog.to_jsonb(k) -> field)
    FROM keysmith_private.audit_entry a
    JOIN keysmith_private.audit_content c ON c.digest = a.content
    JOIN keysmith_private.key_listing k USING (key_id),
         pg_catalog.unnest('{scopes,role,owner,allowlist,expires_at}'::text[]) AS field
    WHERE a.at >= $1 AND a.action IN ('alter', 'rotate') AND k.revoked_at IS NULL
      AND c.before -> field IS DISTINCT FROM c.after -> field
    GROUP BY k.keyspace, k.tenant, k.key_id
    UNION ALL
    SELECT t.suspended_at, 'suspend', t.keyspace, t.name, NULL, NULL, t.suspended_reason, NULL
    FROM keysmith_private.tenant t
    WHERE t.suspended_at >= $1
    UNION ALL
    SELECT a.at, CASE WHEN m.role IS NULL THEN 'remove_member' ELSE 'set_member' END,
           a.keyspace, a.tenant, NULL, a.member, NULL,
           CASE WHEN m.role IS NOT NULL THEN pg_catalog.jsonb_build_object('role', m.role) END
    FROM (SELECT keyspace, tenant, before ->> 'member' AS member, pg_catalog.max(at) AS at
          FROM keysmith_private.audit_entry
          JOIN keysmith_private.audit_content ON digest = content
          WHERE at >= $1 AND action IN ('set_member', 'remove_member') AND before IS NOT NULL
          GROUP BY 1, 2, 3) a
    JOIN keysmith_private.tenant t ON t.keyspace = a.keyspace AND t.name = a.tenant
    LEFT JOIN keysmith_private.member m ON m.tenant_id = t.tenant_id AND m.member = a.member
    UNION ALL
    SELECT a.at, 'define_role', r.keyspace, NULL, NULL, r.role, NULL,
           pg_catalog.jsonb_build_object('scopes', r.scopes)
    FROM (SELECT keyspace, before ->> 'role' AS role, pg_catalog.max(at) AS at
          FROM keysmith_private.audit_entry
          JOIN keysmith_private.audit_content ON digest = content
          WHERE at >= $1 AND action = 'define_role' AND before IS NOT NULL
          GROUP BY 1, 2) a
    JOIN keysmith_private.role r ON r.keyspace = a.keyspace AND r.role = a.role
    ORDER BY at, action, key_id, name";

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

    /// Runs a statement on the entry's key, `$1`, unless the key is revoked.
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
    authority::act(needs::replay_revocations, |caller| {
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
