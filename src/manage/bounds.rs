//! What bounds a key that makes keys, besides its scopes.

use super::errors::unknown_key;
use crate::identity::Identity;
use keysmith_core::policy::limits::Held;
use pg::error::Result;
use pg::spi::{self, Param, Row};

/// It is read before anything is changed: a key
/// may change itself.
pub struct Bounds {
    pub allowlist: Option<String>,
    pub expires_at: Option<i64>,
    /// The first key of its line, as which it is counted.
    line: [u8; 16],
    limits: Option<String>,
    shared_limits: Option<String>,
    /// The line whose credits it spends, if these are not its tenant's.
    pub purse: Option<[u8; 16]>,
}

impl Bounds {
    /// As they are now: the transaction's own snapshot may be older than the identity.
    pub fn of(giver: &Identity) -> Result<Bounds> {
        let found = spi::query_now(
            "SELECT k.allowlist, k.expires_at, coalesce(k.origin, k.key_id), k.limits, k.shared_limits,
                    coalesce(k.purse, c.key_id)
             FROM keysmith_private.key k
             LEFT JOIN keysmith_private.credit c ON c.key_id = coalesce(k.origin, k.key_id)
             WHERE k.key_id = $1",
            &[Param::uuid(&giver.key_id)],
            |rows| rows.first().and_then(Bounds::read),
        )?;
        found.ok_or_else(|| unknown_key(&giver.key_id))
    }

    fn read(row: Row) -> Option<Bounds> {
        Some(Bounds {
            allowlist: row.text(1),
            expires_at: row.timestamp(2),
            line: row.uuid(3)?,
            limits: row.text(4),
            shared_limits: row.text(5),
            purse: row.uuid(6),
        })
    }

    /// The limits that it has, as they are stored.
    pub fn held(&self) -> Held<'_> {
        Held { key: self.line, own: self.limits.as_deref(), shared: self.shared_limits.as_deref() }
    }
}
