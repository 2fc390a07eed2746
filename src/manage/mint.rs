//! New keys: minted here, or imported from elsewhere.

use super::active_keys;
use super::authority::{self, Caller};
use super::bounds::Bounds;
use super::delegation::{self, Owner};
use super::draft::Draft;
use super::key::{self, Fresh};
use super::keyspace::policy;
use super::level::functions;
use super::limits;
use super::locked_key;
use super::progress;
use super::tenant::Tenant;
use crate::audit::{Act, Subject};
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::pepper;
use crate::usage::session::worker_slot;
use keysmith_core::key::digest::{DIGEST_LEN, KeyDigest, SHA512_LEN};
use keysmith_core::key::foreign::Hashings;
use pg::call::{Bytes, Call, must_not_be_null};
use pg::composite::Copied;
use pg::error::{Code, Error, Result};
use pg::scan::{Row, ScanKey, Snapshot, Varlena, server_text};
use pg::spi::{self, Param, saved};
use pgrx::pg_sys::Datum;
use serde_json::json;

functions! {
    keysmith_mint => mint: Keys;
    keysmith_import_key => import_key: Keys;
}

fn mint(call: &Call) -> Result<Option<Datum>> {
    let mut draft = Draft::read(call, 1, 13, json!("mint"))?;
    let (row, api_key) = authority::act(needs::mint, |caller| {
        let policy = policy(caller, &draft.keyspace)?;
        let tenant = Tenant::find(caller, &draft.tenant, &draft.keyspace)?;
        if let Some(earlier) = draft.idempotency.earlier(caller, &tenant.id)? {
            return Ok((earlier, None));
        }
        draft.check_plan(&policy, &tenant)?;
        let environment = draft.settle(caller, &policy, &tenant)?;
        let (row, api_key) = mint_for(caller, &policy, &tenant, &draft, &environment, false)?;
        tenant.must_be_named(&draft.tenant, &draft.keyspace)?;
        Ok((row, Some(api_key)))
    })?;
    match api_key {
        Some(api_key) => key::with_api_key(&row, &api_key),
        None => Ok(Some(row.datum())),
    }
}

/// Makes and stores a new key for a draft that `settle` has checked.
pub fn mint_for(
    caller: &Caller,
    policy: &Policy,
    tenant: &Tenant,
    draft: &Draft,
    environment: &str,
    regenerated: bool,
) -> Result<(Copied, String)> {
    let fresh = Fresh::generate(policy, &draft.kind, environment)?;
    let stored = Stored {
        generation: fresh.generation,
        digest: &fresh.digest,
        key_prefix: Some(&fresh.key_prefix),
        key_snippet: Some(&fresh.key_snippet),
        imported: false,
        regenerated,
    };
    let row = store(caller, policy, tenant, draft, environment, &stored, "mint")?;
    Ok((row, fresh.api_key))
}

/// What is stored of the key itself.
struct Stored<'a> {
    generation: i16,
    digest: &'a [u8; DIGEST_LEN],
    key_prefix: Option<&'a str>,
    key_snippet: Option<&'a str>,
    imported: bool,
    regenerated: bool,
}

fn store(
    caller: &Caller,
    policy: &Policy,
    tenant: &Tenant,
    draft: &Draft,
    environment: &str,
    stored: &Stored,
    action: &str,
) -> Result<Copied> {
    key::note_generation(policy, &draft.keyspace, stored.generation)?;
    let bounds = caller.bounds.as_ref();
    let shared_limits = bounds.map_or(Ok(None), shared_limits)?;
    for surplus in active_keys::make_room(caller, policy, tenant)? {
        locked_key::replace(caller, &surplus)?;
    }
    key::check_has_label(policy, draft.label.as_deref())?;
    active_keys::check_label_is_free(policy, tenant, environment, draft.label.as_deref(), None)?;
    let refill = draft.refill.as_ref();
    let [of_idempotency_key, of_arguments] = draft.idempotency.params();
    let made = spi::first(
        saved!(concat!(
            "WITH made (key_id, minted) AS (
                 INSERT INTO keysmith_private.key (
                     tenant_id, expires_at, generation, digest, keyspace, environment, kind, role,
                     owner, scopes, allowlist, metadata, label, key_prefix, key_snippet, created_by,
                     imported, regenerated, display_id, limits, shared_limits, purse,
                     disabled_at, idempotency_digest, arguments_digest)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, nullif($11::cidr[], '{}'),
                         coalesce($12, '{}'), $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                         CASE WHEN $26 THEN pg_catalog.clock_timestamp() END, $27, $28)
                 ON CONFLICT (digest, keyspace) DO NOTHING",
            key::returning_minted!(),
            "), given AS (
                 INSERT INTO keysmith_private.credit (key_id, balance, refill, every, anchor, low)
                 SELECT key_id, coalesce($23, $24), $24, $25, $29, $30 FROM made
                 WHERE $23 IS NOT NULL OR $24 IS NOT NULL)
             SELECT key_id, minted FROM made"
        )),
        &[
            Param::uuid(&tenant.id),
            Param::timestamp(draft.expires_at),
            Param::smallint(stored.generation),
            Param::bytes(stored.digest),
            Param::text(&draft.keyspace),
            Param::text(environment),
            Param::text(&draft.kind),
            Param::text_or_null(draft.role.as_deref()),
            Param::text_or_null(draft.owner.as_deref()),
            Param::texts(&draft.scopes),
            Param::texts(&draft.allowlist),
            Param::jsonb(draft.metadata),
            Param::text_or_null(draft.label.as_deref()),
            Param::text_or_null(stored.key_prefix),
            Param::text_or_null(stored.key_snippet),
            Param::text(&caller.actor.role),
            Param::boolean(stored.imported),
            Param::boolean(stored.regenerated),
            Param::text_or_null(key::new_display_id(policy, &draft.keyspace)?.as_deref()),
            Param::text_or_null(draft.limits.as_deref()),
            Param::text_or_null(shared_limits.as_deref()),
            Param::uuid_or_null(bounds.and_then(|bounds| bounds.purse).as_ref()),
            Param::bigint(draft.credits),
            // The first refill is there from the start.
            Param::bigint(refill.map(|refill| refill.amount.0)),
            Param::text_or_null(refill.map(|refill| refill.every.0.as_str())),
            Param::boolean(draft.disabled),
            of_idempotency_key,
            of_arguments,
            Param::timestamp(refill.and_then(|refill| refill.anchor).map(|anchor| anchor.0)),
            Param::bigint(refill.and_then(|refill| refill.low).map(|low| low.0)),
        ],
        key::made,
    )?;
    let (key_id, minted) = made.ok_or_else(|| duplicate(&draft.keyspace))?;
    delegation::check(caller, &key_id, Owner::OfTheDelegator)?;
    key::tell_if_powerless(policy, &key_id)?;
    if draft.expires_at.or(tenant.max_lifetime).or(policy.max_lifetime).is_some() {
        worker_slot::want();
    }
    Act::made(&caller.actor, &draft.keyspace, Subject::Key(&key_id)).done(action)?;
    Ok(minted)
}

/// The limits that a new key shares with the key that makes it.
fn shared_limits(bounds: &Bounds) -> Result<Option<String>> {
    let shared = bounds.held().handed_on();
    shared.as_deref().map_or(Ok(()), limits::check_shared)?;
    Ok(shared)
}

fn is_stored(catalog: &Catalog, generation: i16, digest: &[u8], keyspace: &str) -> bool {
    use columns::key as column;
    let (keys, snapshot) = (catalog.tables.key.open(), Snapshot::now());
    let (digest, keyspace) = (Varlena::new(digest), server_text(keyspace));
    let by_digest =
        [ScanKey::bytes(column::digest, &digest), ScanKey::text(column::keyspace, &keyspace)];
    let is_of_generation = |row: &Row| row.smallint(column::generation) == Some(generation);
    keys.any(&snapshot, by_digest, is_of_generation)
}

fn duplicate(keyspace: &str) -> Error {
    let message = format!("a key with this digest already exists in keyspace {keyspace:?}");
    Error::new(Code::Conflict, message)
}

/// Reads the part that is shown of an imported key.
fn display(call: &Call, n: usize, name: &str) -> Result<Option<String>> {
    let text = call.text(n, name)?;
    key::check_line(name, text.as_deref(), 64)?;
    Ok(text)
}

fn import_key(call: &Call) -> Result<Option<Datum>> {
    let algorithm = call.required_text(2, "algorithm")?;
    let none = Hashings::default();
    let hashings = match algorithm.as_str() {
        "sha256" => none,
        "sha256-behind-bar" => Hashings { behind_bar: true, ..none },
        "sha256-last-part" => Hashings { last_part: true, ..none },
        "sha512" => Hashings { sha512: true, ..none },
        _ => {
            let rule = "must be sha256, sha256-behind-bar, sha256-last-part or sha512";
            return Err(Error::argument("algorithm", rule));
        }
    };
    let digest = match call.bytes(1, SHA512_LEN) {
        None => return Err(must_not_be_null("digest")),
        Some(Bytes::Read(bytes)) if hashings.sha512 => {
            bytes.try_into().ok().map(KeyDigest::of_sha512)
        }
        Some(Bytes::Read(bytes)) => KeyDigest::from_slice(bytes),
        Some(Bytes::TooLong) => None,
    };
    let digest = digest.ok_or_else(|| {
        let rule = match hashings.sha512 {
            true => "must have 64 bytes: the SHA-512 of the whole key",
            false => "must have 32 bytes: the SHA-256 of the whole key",
        };
        Error::argument("digest", rule)
    })?;
    let key_prefix = display(call, 15, "key_prefix")?;
    let key_snippet = display(call, 16, "key_snippet")?;
    let more = json!(["import_key", digest.stored(), algorithm, key_prefix, key_snippet]);
    let mut draft = Draft::read(call, 3, 17, more)?;
    let peppers = pepper::peppers();
    let stored_already: Vec<_> = peppers.candidates(&digest).collect();
    let (generation, digest) = peppers.store(&digest);
    let row = authority::act(needs::import_key, |caller| {
        let policy = policy(caller, &draft.keyspace)?;
        let tenant = Tenant::find(caller, &draft.tenant, &draft.keyspace)?;
        if let Some(earlier) = draft.idempotency.earlier(caller, &tenant.id)? {
            return Ok(earlier);
        }
        draft.check_plan(&policy, &tenant)?;
        let environment = draft.settle(caller, &policy, &tenant)?;
        // The same key stored under an older pepper has another digest.
        let catalog = Catalog::open()?;
        if stored_already
            .iter()
            .any(|(generation, digest)| is_stored(&catalog, *generation, digest, &draft.keyspace))
        {
            return Err(duplicate(&draft.keyspace));
        }
        let is_first = hashings.behind_bar && !policy.hashings.behind_bar
            || hashings.last_part && !policy.hashings.last_part;
        if is_first && !caller.administers() {
            return Err(Error::new(
                Code::NotAllowed,
                "the first key of a keyspace that is hashed in part must be imported by an administrator",
            )
            .hint("From then on, that part of any key of the keyspace is looked up."));
        }
        if !policy.has_imports || is_first || hashings.sha512 && !policy.hashings.sha512 {
            spi::execute(
                "UPDATE keysmith_private.keyspace
                 SET has_imports = true, has_bar_imports = has_bar_imports OR $2,
                     has_last_part_imports = has_last_part_imports OR $3,
                     has_sha512_imports = has_sha512_imports OR $4
                 WHERE keyspace = $1",
                &[
                    Param::text(&draft.keyspace),
                    Param::boolean(hashings.behind_bar),
                    Param::boolean(hashings.last_part),
                    Param::boolean(hashings.sha512),
                ],
            )?;
        }
        let stored = Stored {
            generation,
            digest: &digest,
            key_prefix: key_prefix.as_deref(),
            key_snippet: key_snippet.as_deref(),
            imported: true,
            regenerated: false,
        };
        let row = store(caller, &policy, &tenant, &draft, &environment, &stored, "import")?;
        tenant.must_be_named(&draft.tenant, &draft.keyspace)?;
        Ok(row)
    })?;
    progress::imported();
    Ok(Some(row.datum()))
}
