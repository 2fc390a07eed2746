//! Erases content: that of the entries about a tenant.

use super::content::Content;
use pg::error::Result;
use pg::spi::{self, Param};
use pgrx::pg_sys;

/// The numbers of entries.
#[derive(Default)]
pub struct Erased {
    /// Those that lost their content.
    pub entries: Vec<i64>,
    /// Those whose content is not what was written. They keep it, or an erasure would hide the change.
    pub changed: Vec<i64>,
}

/// The most entries whose content is read at a time.
const BATCH: usize = 1000;

/// Deletes the content of the entries of a chain that are about a tenant. Entries of erasures stay:
/// they name the entries that have no content.
pub fn erase(keyspace: &str, tenant_id: &[u8; 16]) -> Result<Erased> {
    let found = spi::all(
        "SELECT a.entry
         FROM keysmith_private.audit_entry a
         JOIN keysmith_private.audit_content c ON c.digest = a.content
         WHERE a.keyspace = $1 AND c.tenant_id = $2 AND a.action <> 'erase_tenant'
         ORDER BY a.entry",
        &[Param::text(keyspace), Param::uuid(tenant_id)],
        |row| row.bigint(1),
    )?;
    let mut erased = Erased::default();
    for entries in found.chunks(BATCH) {
        // Each batch has its own SPI session, which frees its memory.
        spi::session(|| erase_batch(keyspace, entries, &mut erased))?;
    }
    Ok(erased)
}

fn erase_batch(keyspace: &str, entries: &[i64], erased: &mut Erased) -> Result<()> {
    let numbers = |entries: &[i64]| -> Vec<Param<'static>> {
        entries.iter().map(|entry| Param::bigint(Some(*entry))).collect()
    };
    let all = numbers(entries);
    let read = spi::all(
        "SELECT a.entry, a.content,
                c.salt, c.role, c.session_role, c.acting_key, c.acting_member, c.client, c.tenant,
                c.tenant_id, c.key_id, c.before, c.after
         FROM keysmith_private.audit_entry a
         JOIN keysmith_private.audit_content c ON c.digest = a.content
         WHERE a.keyspace = $1 AND a.entry = ANY ($2)
         ORDER BY a.entry",
        &[Param::text(keyspace), Param::array(pg_sys::INT8OID, pg_sys::INT8ARRAYOID, &all)],
        |row| {
            let digest = Content::digest_in(&row, 3);
            let is_whole = digest.is_some_and(|digest| row.bytes(2).as_deref() == Some(&digest));
            Some((row.bigint(1)?, is_whole))
        },
    )?;
    let first = erased.entries.len();
    for (entry, is_whole) in read {
        if is_whole { erased.entries.push(entry) } else { erased.changed.push(entry) }
    }
    let whole = numbers(&erased.entries[first..]);
    spi::execute(
        "DELETE FROM keysmith_private.audit_content c USING keysmith_private.audit_entry a
         WHERE a.content = c.digest AND a.keyspace = $1 AND a.entry = ANY ($2)",
        &[Param::text(keyspace), Param::array(pg_sys::INT8OID, pg_sys::INT8ARRAYOID, &whole)],
    )?;
    Ok(())
}
