//! Calls that make a key, and may be repeated: by an idempotency key, the second call finds the key that
//! the first one made.

use super::authority::Caller;
use super::key;
use super::turns;
use crate::catalog::Catalog;
use keysmith_core::key::digest::{DIGEST_LEN, KeyDigest};
use pg::call::Call;
use pg::composite::Copied;
use pg::error::{Code, Error, Result};
use pg::spi::{self, Param};
use serde_json::Value;

/// What is stored of such a call.
#[derive(Default)]
pub struct Idempotency(Option<Digests>);

struct Digests {
    of_key: [u8; DIGEST_LEN],
    of_arguments: [u8; DIGEST_LEN],
}

impl Idempotency {
    /// Reads the argument; `arguments` are the others.
    pub fn read(call: &Call, n: usize, arguments: impl FnOnce() -> Value) -> Result<Idempotency> {
        const NAME: &str = "idempotency_key";
        let Some(idempotency_key) = call.text(n, NAME)? else { return Ok(Idempotency(None)) };
        if idempotency_key.is_empty() {
            return Err(Error::argument(NAME, "must not be empty; null is for none"));
        }
        key::check_length(NAME, Some(&idempotency_key), 200)?;
        let digest = |text: &str| KeyDigest::of(text.as_bytes()).stored();
        Ok(Idempotency(Some(Digests {
            of_key: digest(&idempotency_key),
            of_arguments: digest(&arguments().to_string()),
        })))
    }

    /// The values of the columns.
    pub fn params(&self) -> [Param<'_>; 2] {
        match &self.0 {
            Some(digests) => [Param::bytes(&digests.of_key), Param::bytes(&digests.of_arguments)],
            None => [Param::bytes_or_null(None); 2],
        }
    }

    /// The key that an earlier call made, without its secret. A call that is still in progress is
    /// waited for.
    pub fn earlier(&self, caller: &Caller, tenant_id: &[u8; 16]) -> Result<Option<Copied>> {
        let Some(digests) = &self.0 else { return Ok(None) };
        let (ids, _) = digests.of_key.as_chunks::<16>();
        turns::of_id(Catalog::open()?.tables.key.table, &ids[0]);
        let [of_key, of_arguments] = self.params();
        let params = [Param::uuid(tenant_id), of_key, of_arguments];
        let found = spi::query_now(
            concat!(
                "SELECT arguments_digest = $3, environment, ",
                key::minted!(),
                " FROM keysmith_private.key WHERE tenant_id = $1 AND idempotency_digest = $2"
            ),
            &params,
            |rows| {
                rows.first().and_then(|row| Some((row.boolean(1), row.text(2)?, row.composite(3)?)))
            },
        )?;
        let Some((is_same, environment, minted)) = found else { return Ok(None) };
        if is_same && caller.reaches_environment(environment.as_bytes()) {
            return Ok(Some(minted));
        }
        Err(Error::new(Code::Conflict, "idempotency_key was given before, with other arguments")
            .hint("Repeat the call with the same arguments, or make another key with another idempotency_key."))
    }
}
