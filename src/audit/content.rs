//! The content of an act: who did what to which key. It is stored beside the chain, which covers its
//! digest: see `keysmith_core::chain`.

use super::event::Event;
use keysmith_core::chain::{SALT_LEN, content_digest};
use pg::error::{Error, Result};
use pg::spi::{self, Param, ResultRow, saved};

/// Everything of an entry that may identify a person.
pub struct Content {
    pub role: Option<String>,
    pub session_role: Option<String>,
    pub acting_key: Option<[u8; 16]>,
    /// The member that the transaction acted for; empty for the tenant as a whole.
    pub acting_member: Option<String>,
    pub client: Option<String>,
    pub tenant: Option<String>,
    pub tenant_id: Option<[u8; 16]>,
    pub key_id: Option<[u8; 16]>,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Content {
    /// Writes it with a new salt. Returns its digest, by which it is found, and the event of that
    /// action in a keyspace, if one is asked for.
    pub fn write(&self, event: Option<(&str, &str)>) -> Result<([u8; 32], Option<Event>)> {
        macro_rules! write {
            () => {
                "INSERT INTO keysmith_private.audit_content (digest, salt, role, session_role,
                     acting_key, client, tenant, key_id, before, after, acting_member, tenant_id)
                 VALUES ($1, $2, $3, $4, $5, $6::inet, $7, $8, $9::jsonb, $10::jsonb, $11, $12)"
            };
        }
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(Error::no_entropy)?;
        let digest = self.digest(&salt);
        let mut fields = vec![
            Param::bytes(&digest),
            Param::bytes(&salt),
            Param::text_or_null(self.role.as_deref()),
            Param::text_or_null(self.session_role.as_deref()),
            Param::uuid_or_null(self.acting_key.as_ref()),
            Param::text_or_null(self.client.as_deref()),
            Param::text_or_null(self.tenant.as_deref()),
            Param::uuid_or_null(self.key_id.as_ref()),
            Param::text_or_null(self.before.as_deref()),
            Param::text_or_null(self.after.as_deref()),
            Param::text_or_null(self.acting_member.as_deref()),
            Param::uuid_or_null(self.tenant_id.as_ref()),
        ];
        let Some((action, keyspace)) = event else {
            spi::execute(saved!(write!()), &fields)?;
            return Ok((digest, None));
        };
        fields.extend([Param::text(action), Param::text(keyspace)]);
        // The channel is read now: a keyspace that is dropped has none at the commit.
        let event = spi::first(
            saved!(concat!(
                "WITH content AS (",
                write!(),
                ") SELECT k.event_channel, pg_catalog.json_build_object(
                       'event', $13, 'key_id', $8, 'tenant', $7, 'keyspace', k.keyspace,
                       'at', pg_catalog.clock_timestamp())::text
                   FROM keysmith_private.keyspace k WHERE k.keyspace = $14"
            )),
            &fields,
            |row| Some(Event { channel: row.text(1)?, payload: row.text(2)? }),
        )?;
        Ok((digest, event))
    }

    /// The digest of what a row has from a column on: salt, role, session_role, acting_key,
    /// acting_member, client, tenant, tenant_id, key_id, before, after. `None` if the salt is missing.
    pub fn digest_in(row: &ResultRow, first: usize) -> Option<[u8; 32]> {
        let salt = row.bytes(first)?.try_into().ok()?;
        let content = Content {
            role: row.text(first + 1),
            session_role: row.text(first + 2),
            acting_key: row.uuid(first + 3),
            acting_member: row.text(first + 4),
            client: row.text(first + 5),
            tenant: row.text(first + 6),
            tenant_id: row.uuid(first + 7),
            key_id: row.uuid(first + 8),
            before: row.text(first + 9),
            after: row.text(first + 10),
        };
        Some(content.digest(&salt))
    }

    fn digest(&self, salt: &[u8; SALT_LEN]) -> [u8; 32] {
        let fields = [
            self.role.as_deref().map(str::as_bytes),
            self.session_role.as_deref().map(str::as_bytes),
            self.acting_key.as_ref().map(<[u8; 16]>::as_slice),
            self.acting_member.as_deref().map(str::as_bytes),
            self.client.as_deref().map(str::as_bytes),
            self.tenant.as_deref().map(str::as_bytes),
            self.tenant_id.as_ref().map(<[u8; 16]>::as_slice),
            self.key_id.as_ref().map(<[u8; 16]>::as_slice),
            self.before.as_deref().map(str::as_bytes),
            self.after.as_deref().map(str::as_bytes),
        ];
        content_digest(salt, &fields)
    }
}
