//! The audit: every act of management, in a chain for each keyspace.
//!
//! An act writes its content immediately, with the digest that its entry is chained by. The
//! entry itself is noted, and written when the transaction is about to commit. Only then
//! does the transaction lock the end of the chain, of several keyspaces in a fixed order. It
//! waits for nothing else while it holds one, so that sessions neither fork a chain nor deadlock.

mod append;
pub mod content;
pub mod erasure;
pub mod event;

use crate::catalog::{Catalog, PRIVATE};
use crate::settings;
use append::Note;
use content::Content;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, saved};
use pg::transaction::{self, PerTransaction};
use pg::{clock, lookup, output, text};
use pgrx::pg_sys::{Oid, SubTransactionId};

pub use append::{must_be_extensible, number_of};
pub use event::EVERYWHERE;

/// The roles that act, and the key or person.
pub struct Actor {
    pub role: String,
    pub session_role: String,
    /// The key that the transaction acts for.
    pub key: Option<[u8; 16]>,
    /// The member that it acts for; empty for a tenant as a whole.
    pub member: Option<String>,
}

/// The object of an act. Its state is read before the act and after it.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    Key(&'a [u8; 16]),
    Keyspace,
    Scope(&'a str),
    Role(&'a str),
    Route { method: &'a str, pattern: &'a str, variant: &'a str },
    Endpoint { method: &'a str, pattern: &'a str },
    Tenant(&'a [u8; 16]),
    Member { tenant_id: &'a [u8; 16], member: &'a str },
    Access(Oid),
}

/// The part of an entry that describes its subject.
#[derive(Default)]
struct State {
    /// JSON without secrets, if the subject exists.
    text: Option<String>,
    /// The name of the tenant, and its id, which finds the entries after the tenant is renamed.
    tenant: Option<String>,
    tenant_id: Option<[u8; 16]>,
}

/// An act in progress.
pub struct Act<'a> {
    actor: &'a Actor,
    keyspace: &'a str,
    subject: Subject<'a>,
    before: Option<String>,
}

thread_local! {
    static NOTES: PerTransaction<Note> = const { PerTransaction::new() };
}

impl<'a> Act<'a> {
    /// Reads the state before the change. Rows that others may change must be locked by now.
    pub fn on(actor: &'a Actor, keyspace: &'a str, subject: Subject<'a>) -> Result<Act<'a>> {
        let before = subject.state(keyspace)?.text;
        Ok(Act { actor, keyspace, subject, before })
    }

    /// The creation of the subject, which has no state before.
    pub fn made(actor: &'a Actor, keyspace: &'a str, subject: Subject<'a>) -> Act<'a> {
        Act { actor, keyspace, subject, before: None }
    }

    /// Notes the outcome, and sends the event of that name.
    pub fn done(self, action: &str) -> Result<()> {
        self.note(action, true, None)
    }

    /// The same, with another state in the entry, as JSON.
    pub fn done_with(self, action: &str, after: &str) -> Result<()> {
        self.note(action, true, Some(after))
    }

    /// Takes note of the outcome. It needs no event if no listener can have known the object.
    pub fn noted(self, action: &str) -> Result<()> {
        self.note(action, false, None)
    }

    fn note(self, action: &str, sends: bool, after: Option<&str>) -> Result<()> {
        must_have_room()?;
        let State { text, tenant, tenant_id } = self.subject.state(self.keyspace)?;
        let after = after.map(String::from).or(text);
        let content = Content {
            role: Some(self.actor.role.clone()),
            session_role: Some(self.actor.session_role.clone()),
            acting_key: self.actor.key,
            acting_member: self.actor.member.clone(),
            client: output::client_address(),
            tenant,
            tenant_id,
            key_id: self.subject.key_id().copied(),
            before: self.before,
            after,
        };
        let event = (sends && event::has_channel(self.keyspace)).then_some((action, self.keyspace));
        let (content, event) = content.write(event)?;
        let note = Note {
            table: Catalog::open()?.tables.audit_entry.table,
            keyspace: self.keyspace.into(),
            at: clock::now(),
            action: action.into(),
            content,
            event,
        };
        NOTES.with(|notes| notes.put(note));
        Ok(())
    }
}

impl<'a> Subject<'a> {
    fn key_id(&self) -> Option<&'a [u8; 16]> {
        match *self {
            Subject::Key(key_id) => Some(key_id),
            _ => None,
        }
    }

    fn state(&self, keyspace: &str) -> Result<State> {
        let keyspace_param = || Param::text(keyspace);
        let name_of_role;
        let (statement, params) = match *self {
            Subject::Key(key_id) => (
                saved!("SELECT pg_catalog.to_jsonb(k) - '{status,last_used_at,refill}'::text[]
                     || pg_catalog.jsonb_build_object('refill', c.refill, 'every', c.every,
                        'anchor', c.anchor, 'low', c.low, 'refilled_at', c.refilled_at, 'purse', r.purse,
                        'disabled_reason', r.disabled_reason), k.tenant, r.tenant_id
                 FROM keysmith_private.key_listing k
                 JOIN keysmith_private.key r ON r.key_id = k.key_id
                 LEFT JOIN keysmith_private.credit c
                     ON c.key_id = coalesce(r.purse, r.origin, r.key_id)
                 WHERE k.key_id = $1"),
                vec![Param::uuid(key_id)],
            ),
            Subject::Keyspace => (
                saved!("SELECT pg_catalog.to_jsonb(k) - 'event_channel'
                     || pg_catalog.jsonb_build_object(
                     'prefixes', (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(p) - 'keyspace'
                                         ORDER BY p.kind, p.environment)
                                  FROM keysmith_private.keyspace_prefix p WHERE p.keyspace = $1),
                     'codes', (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(a) - 'keyspace'
                                      ORDER BY a.answer)
                               FROM keysmith_private.answer a WHERE a.keyspace = $1),
                     'plan_features', (SELECT pg_catalog.jsonb_object_agg(f.feature, f.plans)
                                       FROM keysmith_private.plan_feature f WHERE f.keyspace = $1)),
                     NULL::text, NULL::uuid
                 FROM keysmith_private.keyspace k WHERE k.keyspace = $1"),
                vec![keyspace_param()],
            ),
            Subject::Scope(scope) => (
                saved!("SELECT pg_catalog.to_jsonb(s), NULL::text, NULL::uuid FROM keysmith_private.scope s
                 WHERE s.keyspace = $1 AND s.scope = $2"),
                vec![keyspace_param(), Param::text(scope)],
            ),
            Subject::Role(role) => (
                saved!("SELECT pg_catalog.to_jsonb(r), NULL::text, NULL::uuid FROM keysmith_private.role r
                 WHERE r.keyspace = $1 AND r.role = $2"),
                vec![keyspace_param(), Param::text(role)],
            ),
            Subject::Route { method, pattern, variant } => (
                saved!("SELECT pg_catalog.to_jsonb(r), NULL::text, NULL::uuid FROM keysmith_private.route r
                 WHERE r.keyspace = $1 AND r.method = $2 AND r.pattern = $3 AND r.variant = $4"),
                vec![
                    keyspace_param(),
                    Param::text(method),
                    Param::text(pattern),
                    Param::text(variant),
                ],
            ),
            Subject::Endpoint { method, pattern } => (
                saved!("SELECT pg_catalog.to_jsonb(e), NULL::text, NULL::uuid FROM keysmith_private.endpoint e
                 WHERE e.keyspace = $1 AND e.method = $2 AND e.pattern = $3"),
                vec![keyspace_param(), Param::text(method), Param::text(pattern)],
            ),
            Subject::Tenant(tenant_id) => (
                saved!("SELECT pg_catalog.to_jsonb(t) || pg_catalog.jsonb_build_object(
                     'credits', keysmith_private.credits_at(
                         c.balance, c.refill, c.every, c.anchor, c.refilled_at, pg_catalog.clock_timestamp()),
                     'refill', c.refill, 'every', c.every, 'anchor', c.anchor, 'low', c.low,
                     'refilled_at', c.refilled_at), t.name, t.tenant_id
                 FROM keysmith_private.tenant t LEFT JOIN keysmith_private.credit c ON c.tenant_id = t.tenant_id
                 WHERE t.tenant_id = $1"),
                vec![Param::uuid(tenant_id)],
            ),
            Subject::Member { tenant_id, member } => (
                saved!("SELECT (SELECT pg_catalog.to_jsonb(m) FROM keysmith_private.member m
                         WHERE m.tenant_id = t.tenant_id AND m.member = $2), t.name,
                        t.tenant_id
                 FROM keysmith_private.tenant t WHERE t.tenant_id = $1"),
                vec![Param::uuid(tenant_id), Param::text(member)],
            ),
            Subject::Access(role) => {
                name_of_role = text::name_of_role(role);
                (
                    saved!("SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                         'role', $2, 'level', a.level, 'tenant_id', a.tenant_id, 'keyspace', a.keyspace)
                         ORDER BY a.level, a.tenant_id, a.keyspace), NULL::text, NULL::uuid, NULL::uuid
                     FROM keysmith_private.access a WHERE a.role = $1"),
                    vec![Param::oid(role), Param::text(&name_of_role)],
                )
            }
        };
        let state = spi::first(statement, &params, |row| {
            Some(State { text: row.text(1), tenant: row.text(2), tenant_id: row.uuid(3) })
        })?;
        Ok(state.unwrap_or_default())
    }
}

/// Bounds the notes of one transaction, and so the time for which its commit makes others wait.
fn must_have_room() -> Result<()> {
    let most = settings::max_acts();
    if NOTES.with(|notes| notes.change(|list| list.len())) < most {
        return Ok(());
    }
    let message =
        format!("one transaction can't make more than {most} changes to keys and the like");
    Err(Error::new(Code::Conflict, message)
        .hint("Commit, and go on in another transaction; or have keysmith.max_acts raised."))
}

/// Whether the transaction has acted. Its entries have no numbers yet.
pub fn has_acted() -> bool {
    NOTES.with(|notes| notes.change(|list| !list.is_empty()))
}

pub fn forget() {
    NOTES.with(|notes| drop(notes.take()));
}

pub fn released(ended: SubTransactionId, parent: SubTransactionId) {
    NOTES.with(|notes| notes.released(ended, parent));
}

pub fn rolled_back(ended: SubTransactionId) {
    NOTES.with(|notes| notes.rolled_back(ended));
}

pub fn before_prepare() -> Result<()> {
    if has_acted() {
        return Err(Error::new(
            Code::Conflict,
            "a transaction that manages keys can't be prepared",
        )
        .hint("Its events, and its place in the audit, need a commit in one phase."));
    }
    Ok(())
}

/// The actions that only give something. All others may take rights away: alone, or with what was
/// there before, as `define_scope` and `add_credits` may.
const GIVING: [&str; 7] =
    ["create_keyspace", "create_tenant", "enable", "grant_access", "import", "mint", "resume"];

/// Adds the acts of this transaction to the chains. If some may take rights away, a failover must
/// not undo them, although the session waits for no standby.
pub fn before_commit() -> Result<()> {
    let notes = NOTES.with(PerTransaction::take);
    if notes.is_empty() || is_extension_gone() {
        return Ok(());
    }
    let catalog = Catalog::open()?;
    let ours = catalog.tables.audit_entry.table;
    let notes: Vec<Note> =
        notes.into_iter().map(|(_, note)| note).filter(|note| note.table == ours).collect();
    // Statements need an active snapshot, and the commit has already dropped it.
    transaction::with_snapshot(|| catalog.as_owner(|| append::append(&catalog, &notes)))?;
    event::send(notes.iter().filter_map(|note| note.event.as_ref()));
    // After a failover, the worker disables its keys again. It must not wait for a standby that
    // is away: records would wait, too.
    let is_giving = |note: &Note| GIVING.contains(&note.action.as_str());
    if !pg::worker::is_one() && !notes.iter().all(is_giving) {
        transaction::force_synchronous_commit();
    }
    Ok(())
}

/// The transaction may have dropped the extension, and its audit with it.
fn is_extension_gone() -> bool {
    lookup::schema(PRIVATE).is_none()
}
