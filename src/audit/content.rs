//! What an act did. It lies beside the chain, which covers a digest of it: see
//! `keysmith_core::chain`.

use keysmith_core::chain::{SALT_LEN, content_digest};
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param, Row};
use std::cell::OnceCell;

/// All of an entry that may tell who someone is.
pub struct Content {
    pub role: Option<String>,
    pub session_role: Option<String>,
    pub acting_key: Option<[u8; 16]>,
    pub client: Option<String>,
    pub tenant: Option<String>,
    pub key_id: Option<[u8; 16]>,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Content {
    /// Writes it with a new salt, and gives the digest that it is found by.
    pub fn write(&self) -> Result<[u8; 32]> {
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(|_| {
            Error::new(Code::Installation, "the operating system has no entropy to give")
        })?;
        let digest = self.digest(&salt);
        spi::execute(
            "INSERT INTO keysmith_private.audit_content (digest, salt, role, session_role, acting_key,
                 client, tenant, key_id, before, after)
             VALUES ($1, $2, $3, $4, $5, $6::inet, $7, $8, $9::jsonb, $10::jsonb)",
            &[
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
            ],
        )?;
        Ok(digest)
    }

    /// The digest of what a row has from a column on: salt, role, session_role, acting_key,
    /// client, tenant, key_id, before, after. `None` if the salt is missing.
    pub fn digest_in(row: &Row, first: usize) -> Option<[u8; 32]> {
        let salt = row.bytes(first)?.try_into().ok()?;
        let content = Content {
            role: row.text(first + 1),
            session_role: row.text(first + 2),
            acting_key: row.uuid(first + 3),
            client: row.text(first + 4),
            tenant: row.text(first + 5),
            key_id: row.uuid(first + 6),
            before: row.text(first + 7),
            after: row.text(first + 8),
        };
        Some(content.digest(&salt))
    }

    fn digest(&self, salt: &[u8; SALT_LEN]) -> [u8; 32] {
        let fields = [
            self.role.as_deref().map(str::as_bytes),
            self.session_role.as_deref().map(str::as_bytes),
            self.acting_key.as_ref().map(<[u8; 16]>::as_slice),
            self.client.as_deref().map(str::as_bytes),
            self.tenant.as_deref().map(str::as_bytes),
            self.key_id.as_ref().map(<[u8; 16]>::as_slice),
            self.before.as_deref().map(str::as_bytes),
            self.after.as_deref().map(str::as_bytes),
        ];
        content_digest(salt, &fields)
    }
}

/// The client's address; `None` for a socket. A session keeps the same one.
pub fn client() -> Result<Option<String>> {
    thread_local! {
        static CLIENT: OnceCell<Option<String>> = const { OnceCell::new() };
    }
    if let Some(known) = CLIENT.with(|client| client.get().cloned()) {
        return Ok(known);
    }
    let client = spi::first("SELECT pg_catalog.inet_client_addr()", &[], |row| row.text(1))?;
    Ok(CLIENT.with(|known| known.get_or_init(|| client).clone()))
}
