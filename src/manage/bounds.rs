//! The bounds of a key that makes keys, besides its scopes.

use super::errors::unknown_key;
use crate::catalog::{
    Catalog,
    columns::{credit, key},
};
use crate::decide::lookup::Reader;
use keysmith_core::policy::allowlist::IpNet;
use keysmith_core::policy::limits::HeldLimits;
use pg::error::Result;
use pg::scan::ScanKey;
use pg::varlena;

/// They are read before anything is changed: a key may change itself.
pub struct Bounds {
    pub allowlist: Option<Vec<IpNet>>,
    pub expires_at: Option<i64>,
    /// The first key of its line, under which its calls are counted.
    line: [u8; 16],
    limits: Option<String>,
    shared_limits: Option<String>,
    /// The first key of the line whose credits it spends; `None` if it spends its tenant's.
    pub purse: Option<[u8; 16]>,
}

impl Bounds {
    /// The bounds as they are now: the transaction's own snapshot may be older than the identity.
    pub fn of(key_id: &[u8; 16]) -> Result<Bounds> {
        let catalog = Catalog::open()?;
        let reader = Reader::new(&catalog);
        let rows = reader.find_by_id(key_id).ok_or_else(|| unknown_key(key_id))?;
        let row = rows.key();
        let keyspace = row.bytes(key::keyspace).unwrap_or_default();
        let expires_at = rows.life(&*reader.policy(keyspace)?).end();
        let line = row.uuid(key::origin).unwrap_or(*key_id);
        let purse = row.uuid(key::purse).or_else(|| {
            let credits = catalog.tables.credit_of_key.open();
            let of_line = [ScanKey::uuid(credit::key_id, &line)];
            credits.any(reader.snapshot(), of_line, |_| true).then_some(line)
        });
        Ok(Bounds {
            allowlist: row.array(key::allowlist).map(|list| varlena::networks(list).collect()),
            expires_at,
            line,
            limits: row.text(key::limits),
            shared_limits: row.text(key::shared_limits),
            purse,
        })
    }

    /// Its limits, in their stored form.
    pub fn held(&self) -> HeldLimits<'_> {
        HeldLimits {
            key: self.line,
            own: self.limits.as_deref(),
            shared: self.shared_limits.as_deref(),
        }
    }
}
