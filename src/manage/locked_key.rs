//! The key that an act is about, locked until the transaction ends; and its revocation.

use super::authority::Caller;
use super::errors::{self, unknown_key};
use super::key;
use super::turns;
use crate::audit::{Act, Subject};
use crate::catalog::{Catalog, columns};
use crate::decide::lookup::Reader;
use pg::clock;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, ResultRow, saved};
use pg::text::lossy;

/// A key that an act is about. Its row is locked until the transaction ends.
pub struct LockedKey {
    pub key_id: [u8; 16],
    /// The first key of its line, which credits and the counts of limits are kept for.
    pub origin: [u8; 16],
    /// The first key of the line whose credits it spends.
    pub purse: [u8; 16],
    pub tenant_id: [u8; 16],
    pub keyspace: String,
    pub environment: String,
    pub kind: String,
    pub label: Option<String>,
    /// By the earliest bound.
    pub expires_at: Option<i64>,
    /// The end that its tenant and keyspace set, whatever its own expiry says.
    latest: Option<i64>,
    disabled: bool,
    pub rotated_to: Option<[u8; 16]>,
    pub scopes: Vec<String>,
}

impl LockedKey {
    /// Locks a key that is not revoked. Sessions that act on the same key take turns, and each sees
    /// what the session before it did.
    /// A key that the caller does not reach is the same error as one that does not exist. It is not
    /// even locked, since a wait for it would show that it exists.
    pub fn lock(caller: &Caller, key_id: &[u8; 16]) -> Result<LockedKey> {
        LockedKey::lock_within(caller.tenants(), caller.environment(), key_id)
    }

    pub fn lock_within(tenants: Param, environment: Param, key_id: &[u8; 16]) -> Result<LockedKey> {
        let catalog = Catalog::open()?;
        let keyspace = Reader::new(&catalog)
            .find_by_id(key_id)
            .and_then(|rows| rows.key().bytes(columns::key::keyspace).map(lossy))
            .ok_or_else(|| unknown_key(key_id))?;
        turns::keep_keyspace(&keyspace)?;
        let found = spi::first(
            saved!(concat!(
                "SELECT tenant_id, keyspace, environment, kind, expires_at, disabled_at IS NOT NULL,
                        rotated_to, coalesce(origin, key_id), coalesce(purse, origin, key_id), ",
                key::latest_end!(),
                ", label, scopes
                 FROM keysmith_private.key
                 WHERE key_id = $1 AND revoked_at IS NULL AND ($2 IS NULL OR tenant_id = ANY ($2))
                   AND ($3 IS NULL OR environment = $3)
                 FOR NO KEY UPDATE"
            )),
            &[Param::uuid(key_id), tenants, environment],
            |row| LockedKey::read(key_id, row),
        )?;
        found.ok_or_else(|| unknown_key(key_id))
    }

    fn read(key_id: &[u8; 16], row: ResultRow) -> Option<LockedKey> {
        let (expires_at, latest) = (row.timestamp(5), row.timestamp(10));
        Some(LockedKey {
            key_id: *key_id,
            origin: row.uuid(8)?,
            purse: row.uuid(9)?,
            tenant_id: row.uuid(1)?,
            keyspace: row.text(2)?,
            environment: row.text(3)?,
            kind: row.text(4)?,
            label: row.text(11),
            expires_at: [expires_at, latest].into_iter().flatten().min(),
            latest,
            disabled: row.boolean(6),
            rotated_to: row.uuid(7),
            scopes: row.texts(12).iter().map(|scope| lossy(scope)).collect(),
        })
    }

    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|moment| moment <= clock::now())
    }

    /// Whether it stays expired, whatever its own expiry will be.
    pub fn is_over(&self) -> bool {
        self.latest.is_some_and(|moment| moment <= clock::now())
    }

    pub fn check_is_active(&self) -> Result<()> {
        let conflict = |what: &str| conflict(&self.key_id, what);
        if let Some(successor) = &self.rotated_to {
            return Err(has_successor(&self.key_id, successor));
        }
        if self.is_expired() {
            return Err(conflict("is expired"));
        }
        if self.disabled {
            return Err(conflict("is disabled").hint("Enable it first."));
        }
        Ok(())
    }
}

/// Revokes a key that makes room for another.
pub fn replace(caller: &Caller, key_id: &[u8; 16]) -> Result<()> {
    end_locked(caller, &LockedKey::lock(caller, key_id)?, "replaced")
}

pub fn end_locked(caller: &Caller, subject: &LockedKey, reason: &str) -> Result<()> {
    let key_id = &subject.key_id;
    let act = Act::on(&caller.actor, &subject.keyspace, Subject::Key(key_id))?;
    spi::execute(
        saved!(
            "UPDATE keysmith_private.key
             SET revoked_at = pg_catalog.clock_timestamp(), revoked_reason = $2
             WHERE key_id = $1"
        ),
        &[Param::uuid(key_id), Param::text(reason)],
    )?;
    act.done("revoke")
}

fn conflict(key_id: &[u8; 16], what: &str) -> Error {
    Error::new(Code::Conflict, format!("key {} {what}", errors::shown(key_id)))
}

pub fn has_successor(key_id: &[u8; 16], successor: &[u8; 16]) -> Error {
    let what = format!("was rotated already; its successor is {}", errors::shown(successor));
    conflict(key_id, &what)
}
