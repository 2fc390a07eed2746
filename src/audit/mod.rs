//! The audit: every act of management, in a chain for each keyspace.
//!
//! An act is noted when it is done, and written when its transaction is about to
//! commit. Only then is the end of the chain taken, and of several keyspaces in a
//! fixed order: nobody waits for anything while holding one, so that sessions neither
//! fork a chain nor deadlock.

mod proof;

use crate::catalog::scan::{Relation, ScanKey, Snapshot, Varlena};
use crate::catalog::{Catalog, columns};
use crate::error::{Code, Error, Result};
use crate::manage::authority::{self, Caller};
use crate::manage::event;
use crate::manage::sql::{self, Param};
use crate::pepper;
use crate::text;
use crate::transaction::Memory;
use keysmith_core::chain::{self, START, Seal};
use pgrx::pg_sys::{self, Datum, Oid, SubTransactionId};
use std::collections::BTreeMap;

/// The chain of what concerns no keyspace alone.
pub const EVERYWHERE: &str = "*";

/// What an act is about: how its state is read before and after.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    Key(&'a [u8; 16]),
    Keyspace,
    Scope(&'a str),
    Role(&'a str),
    Route { method: &'a str, pattern: &'a str, variant: &'a str },
    Tenant(&'a str),
    Member { tenant: &'a str, member: &'a str },
    Access(Oid),
}

/// An act on its way.
pub struct Act<'a> {
    caller: &'a Caller,
    keyspace: &'a str,
    subject: Subject<'a>,
    before: Option<String>,
}

/// An act that was done, to be written at commit.
struct Note {
    keyspace: String,
    at: i64,
    action: String,
    role: String,
    session_role: String,
    acting_key: Option<[u8; 16]>,
    tenant: Option<String>,
    key_id: Option<[u8; 16]>,
    before: Option<String>,
    after: Option<String>,
}

thread_local! {
    static NOTES: Memory<Note> = const { Memory::new() };
}

impl<'a> Act<'a> {
    /// Takes note of what there is, before it is changed. Rows that others may change
    /// must be locked by now.
    pub fn on(caller: &'a Caller, keyspace: &'a str, subject: Subject<'a>) -> Result<Act<'a>> {
        let before = subject.state(keyspace)?.0;
        Ok(Act { caller, keyspace, subject, before })
    }

    /// The making of something that was not there before.
    pub fn made(caller: &'a Caller, keyspace: &'a str, subject: Subject<'a>) -> Act<'a> {
        Act { caller, keyspace, subject, before: None }
    }

    /// Takes note of the outcome, and sends the event of that name.
    pub fn done(self, action: &str) -> Result<()> {
        let (after, tenant) = self.subject.state(self.keyspace)?;
        event::send(action, self.keyspace, self.subject.key_id(), tenant.as_deref())?;
        self.note(action, after, tenant);
        Ok(())
    }

    /// Takes note of what nobody can have known of before, and so needs no event.
    pub fn noted(self, action: &str) -> Result<()> {
        let (after, tenant) = self.subject.state(self.keyspace)?;
        self.note(action, after, tenant);
        Ok(())
    }

    fn note(self, action: &str, after: Option<String>, tenant: Option<String>) {
        let note = Note {
            keyspace: self.keyspace.into(),
            // SAFETY: reads the clock.
            at: unsafe { pg_sys::GetCurrentTimestamp() },
            action: action.into(),
            role: self.caller.role.clone(),
            session_role: self.caller.session_role.clone(),
            acting_key: self.caller.key.as_ref().map(|key| key.key_id),
            tenant,
            key_id: self.subject.key_id().copied(),
            before: self.before,
            after,
        };
        NOTES.with(|notes| notes.put(note));
    }
}

impl<'a> Subject<'a> {
    fn key_id(&self) -> Option<&'a [u8; 16]> {
        match *self {
            Subject::Key(key_id) => Some(key_id),
            _ => None,
        }
    }

    /// The state as JSON without secrets, if there is any, and the tenant's name.
    fn state(&self, keyspace: &str) -> Result<(Option<String>, Option<String>)> {
        let keyspace_param = || Param::text(keyspace);
        let (statement, params) = match *self {
            Subject::Key(key_id) => (
                "SELECT pg_catalog.to_jsonb(k) - '{status,last_used_at}'::text[]
                     || pg_catalog.jsonb_build_object('refill', c.refill, 'every', c.every,
                        'refilled_at', c.refilled_at, 'purse', r.purse), k.tenant
                 FROM keysmith_private.key_listing k
                 JOIN keysmith_private.key r ON r.key_id = k.key_id
                 LEFT JOIN keysmith_private.credit c
                     ON c.key_id = coalesce(r.purse, r.origin, r.key_id)
                 WHERE k.key_id = $1",
                vec![Param::uuid(key_id)],
            ),
            Subject::Keyspace => (
                "SELECT pg_catalog.to_jsonb(k) - 'event_channel'
                     || pg_catalog.jsonb_build_object(
                     'prefixes', (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(p) - 'keyspace'
                                         ORDER BY p.kind, p.environment)
                                  FROM keysmith_private.keyspace_prefix p WHERE p.keyspace = $1),
                     'codes', (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(a) - 'keyspace'
                                      ORDER BY a.answer)
                               FROM keysmith_private.answer a WHERE a.keyspace = $1),
                     'plan_features', (SELECT pg_catalog.jsonb_object_agg(f.feature, f.plans)
                                       FROM keysmith_private.plan_feature f WHERE f.keyspace = $1)),
                     NULL::text
                 FROM keysmith_private.keyspace k WHERE k.keyspace = $1",
                vec![keyspace_param()],
            ),
            Subject::Scope(scope) => (
                "SELECT pg_catalog.to_jsonb(s), NULL::text FROM keysmith_private.scope s
                 WHERE s.keyspace = $1 AND s.scope = $2",
                vec![keyspace_param(), Param::text(scope)],
            ),
            Subject::Role(role) => (
                "SELECT pg_catalog.to_jsonb(r), NULL::text FROM keysmith_private.role r
                 WHERE r.keyspace = $1 AND r.role = $2",
                vec![keyspace_param(), Param::text(role)],
            ),
            Subject::Route { method, pattern, variant } => (
                "SELECT pg_catalog.to_jsonb(r), NULL::text FROM keysmith_private.route r
                 WHERE r.keyspace = $1 AND r.method = $2 AND r.pattern = $3 AND r.variant = $4",
                vec![
                    keyspace_param(),
                    Param::text(method),
                    Param::text(pattern),
                    Param::text(variant),
                ],
            ),
            Subject::Tenant(tenant) => (
                "SELECT pg_catalog.to_jsonb(t) || pg_catalog.jsonb_build_object(
                     'credits', CASE
                         WHEN c.refilled_at < pg_catalog.date_trunc(
                             c.every, pg_catalog.clock_timestamp(), 'UTC')
                         THEN greatest(c.balance, c.refill) ELSE c.balance END,
                     'refill', c.refill, 'every', c.every, 'refilled_at', c.refilled_at), t.name
                 FROM keysmith_private.tenant t LEFT JOIN keysmith_private.credit c ON c.tenant_id = t.tenant_id
                 WHERE t.keyspace = $1 AND t.name = $2",
                vec![keyspace_param(), Param::text(tenant)],
            ),
            Subject::Member { tenant, member } => (
                "SELECT (SELECT pg_catalog.to_jsonb(m) FROM keysmith_private.member m
                         WHERE m.tenant_id = t.tenant_id AND m.member = $3), t.name
                 FROM keysmith_private.tenant t WHERE t.keyspace = $1 AND t.name = $2",
                vec![keyspace_param(), Param::text(tenant), Param::text(member)],
            ),
            Subject::Access(role) => (
                "SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                     'role', $2, 'level', a.level, 'tenant_id', a.tenant_id)
                     ORDER BY a.level, a.tenant_id), NULL::text
                 FROM keysmith_private.access a WHERE a.role = $1",
                vec![
                    Param::given(pg_sys::OIDOID, Some(Datum::from(role))),
                    Param::text(&text::name_of_role(role)),
                ],
            ),
        };
        let rows = sql::query(statement, &params)?;
        Ok(rows.first().map_or((None, None), |row| (row.text(1), row.text(2))))
    }
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
    let is_managing = NOTES.with(|notes| notes.change(|list| !list.is_empty()));
    if is_managing {
        return Err(Error::new(
            Code::Conflict,
            "a transaction that manages keys can't be prepared",
        )
        .hint("Its events, and its place in the audit, need a commit in one phase."));
    }
    Ok(())
}

/// Writes what this transaction did.
pub fn before_commit() -> Result<()> {
    let notes = NOTES.with(Memory::take);
    if notes.is_empty() || is_extension_gone() {
        return Ok(());
    }
    let catalog = Catalog::open()?;
    let mut chains: BTreeMap<(u32, String), Vec<Note>> = BTreeMap::new();
    for (_, note) in notes {
        chains.entry((lock_number(&note.keyspace), note.keyspace.clone())).or_default().push(note);
    }
    // SAFETY: statements need a snapshot around them, which a commit has no more. It is
    // popped below; an error's abort pops it too.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = authority::as_owner(&catalog, || {
        let rows = sql::query("SELECT pg_catalog.inet_client_addr()", &[])?;
        let client = rows.first().and_then(|row| row.text(1));
        for ((lock, keyspace), notes) in &chains {
            append(&catalog, *lock, keyspace, notes, client.as_deref())?;
        }
        Ok(())
    });
    // SAFETY: pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// A transaction may also drop the extension, and its audit with it.
fn is_extension_gone() -> bool {
    // SAFETY: a look-up by name, which gives InvalidOid if there is none.
    unsafe { pg_sys::get_namespace_oid(crate::catalog::PRIVATE.as_ptr(), true) == Oid::INVALID }
}

/// FNV-1a. Chains that share a number merely take turns.
fn lock_number(keyspace: &str) -> u32 {
    keyspace
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn append(
    catalog: &Catalog,
    lock: u32,
    keyspace: &str,
    notes: &[Note],
    client: Option<&str>,
) -> Result<()> {
    let table = catalog.tables.audit_entry;
    // SAFETY: a lock on an object of the audit table, held until the transaction ends.
    unsafe {
        pg_sys::LockDatabaseObject(
            table.table,
            Oid::from(lock),
            0,
            pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
        );
    }
    let (mut entry, mut previous, generation) = end_of(catalog, keyspace);
    let peppers = pepper::peppers();
    if peppers.newest() < generation {
        return Err(Error::new(
            Code::Pepper,
            format!("the audit of keyspace {keyspace:?} is sealed with pepper {generation}"),
        )
        .hint("Preload the library, and keep that line in the file of keysmith.pepper_file."));
    }
    for note in notes {
        entry += 1;
        let at = note.at.to_be_bytes();
        let fields = [
            Some(keyspace.as_bytes()),
            Some(&at[..]),
            Some(note.action.as_bytes()),
            Some(note.role.as_bytes()),
            Some(note.session_role.as_bytes()),
            note.acting_key.as_ref().map(|id| &id[..]),
            client.map(str::as_bytes),
            note.tenant.as_deref().map(str::as_bytes),
            note.key_id.as_ref().map(|id| &id[..]),
            note.before.as_deref().map(str::as_bytes),
            note.after.as_deref().map(str::as_bytes),
        ];
        let sealed = chain::seal(peppers, peppers.newest(), &previous, entry, &fields);
        previous = sealed.ok_or_else(|| Error::new(Code::Pepper, "the newest pepper is gone"))?;
        sql::execute(
            "INSERT INTO keysmith_private.audit_entry (keyspace, entry, at, action, role, session_role,
                 acting_key, client, tenant, key_id, before, after, generation, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8::inet, $9, $10, $11::jsonb, $12::jsonb, $13, $14)",
            &[
                Param::text(keyspace),
                Param::bigint(Some(entry)),
                Param::timestamp(Some(note.at)),
                Param::text(&note.action),
                Param::text(&note.role),
                Param::text(&note.session_role),
                Param::uuid_or_null(note.acting_key.as_ref()),
                Param::text_or_null(client),
                Param::text_or_null(note.tenant.as_deref()),
                Param::uuid_or_null(note.key_id.as_ref()),
                Param::text_or_null(note.before.as_deref()),
                Param::text_or_null(note.after.as_deref()),
                Param::smallint(peppers.newest()),
                Param::bytes(&previous),
            ],
        )?;
    }
    Ok(())
}

/// The last entry of a chain, as of now: a transaction at REPEATABLE READ must not
/// chain its own to one that has successors.
fn end_of(catalog: &Catalog, keyspace: &str) -> (i64, Seal, i16) {
    use columns::audit_entry as column;
    let snapshot = Snapshot::now(catalog.tables.audit_entry);
    let entries = Relation::open(catalog.tables.audit_entry);
    let keyspace = Varlena::new(&text::to_server(keyspace).into_bytes());
    entries
        .last(&snapshot, [ScanKey::text(column::keyspace, &keyspace)], |row| {
            let seal = row.bytes(column::hash).and_then(|hash| hash.try_into().ok());
            (
                row.bigint(column::entry).unwrap_or_default(),
                seal.unwrap_or(START),
                row.smallint(column::generation).unwrap_or_default(),
            )
        })
        .unwrap_or((0, START, 0))
}
