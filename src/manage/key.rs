//! What the acts on keys share: bounds of fields, new secrets, and how many keys a tenant may have.

use super::errors::{shown, unknown_key, unknown_member};
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::decide::lookup::Reader;
use crate::pepper;
use keysmith_core::key::digest::{DIGEST_LEN, KeyDigest};
use keysmith_core::key::{display, format, secret};
use keysmith_core::policy::allowlist::{IpNet, MAX_NETWORKS};
use keysmith_core::policy::scope::{SCOPE_RULE, is_grant, is_scope};
use pg::call::Call;
use pg::composite::Copied;
use pg::error::{Code, Error, Result};
use pg::scan::{ScanKey, Snapshot, server_text};
use pg::spi::{self, Param};
use pg::{clock, text, varlena};
use pgrx::pg_sys::Datum;
use std::collections::HashSet;

/// The environment of a new key, if the caller gives none and the keyspace has it.
pub const USUAL_ENVIRONMENT: &str = "live";
/// Most scopes a key or a role may hold.
pub const MAX_SCOPES: usize = 1000;

pub fn check_length(name: &str, text: Option<&str>, most: usize) -> Result<()> {
    match text.map(|text| text.chars().count()) {
        Some(length) if length > most => {
            Err(Error::argument(name, format!("must have at most {most} characters, not {length}")))
        }
        _ => Ok(()),
    }
}

/// Checks that a list has at most so many elements.
pub fn check_count(name: &str, things: &str, count: usize, most: usize) -> Result<()> {
    if count > most {
        return Err(Error::argument(
            name,
            format!("must have at most {most} {things}, not {count}"),
        ));
    }
    Ok(())
}

/// Checks that grants are well-formed, and not too many.
pub fn check_grants(name: &str, grants: &[String]) -> Result<()> {
    check_count(name, "scopes", grants.len(), MAX_SCOPES)?;
    match grants.iter().find(|grant| !is_grant(grant)) {
        None => Ok(()),
        Some(bad) => {
            let shown: String = bad.chars().take(60).collect();
            Err(Error::argument(name, format!("has {shown:?}; a scope {SCOPE_RULE}"))
                .hint("A grant may also be * or end in :*."))
        }
    }
}

/// Removes duplicates.
pub fn distinct(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}

/// The same, and that the keyspace's catalogue has them.
pub fn check_known_grants(policy: &Policy, grants: &[String]) -> Result<()> {
    check_grants("scopes", grants)?;
    check_known(policy, grants)
}

/// Checks that the keyspace's catalogue has scopes.
pub fn check_known(policy: &Policy, grants: &[String]) -> Result<()> {
    match grants.iter().find(|grant| !policy.knows_grant(grant.as_bytes())) {
        None => Ok(()),
        Some(unknown) => Err(Error::argument(
            "scopes",
            format!("has {unknown:?}, which the keyspace does not define"),
        )
        .hint("Define it with keysmith.define_scope.")),
    }
}

/// The same for the scopes of a key. A keyspace without wildcards wants them by name.
pub fn check_key_grants(policy: &Policy, grants: &[String]) -> Result<()> {
    check_known_grants(policy, grants)?;
    if !policy.wildcards && grants.iter().any(|grant| !is_scope(grant)) {
        return Err(Error::argument(
            "scopes",
            "must be scopes by name: the keyspace has no wildcards",
        ));
    }
    Ok(())
}

/// Checks that a key has a label, if the keyspace requires one.
pub fn check_has_label(policy: &Policy, label: Option<&str>) -> Result<()> {
    match label {
        None if policy.requires_label => {
            Err(Error::argument("label", "must not be null: the keyspace requires labels"))
        }
        _ => Ok(()),
    }
}

pub fn check_label(policy: &Policy, label: Option<&str>) -> Result<()> {
    if label == Some("") {
        return Err(Error::argument("label", "must not be empty; null is for none"));
    }
    check_line("label", label, policy.label_length)
}

/// Checks a text that is shown on one line.
pub fn check_line(name: &str, text: Option<&str>, most: usize) -> Result<()> {
    check_length(name, text, most)?;
    match text {
        Some(text) if text.chars().any(char::is_control) => {
            Err(Error::argument(name, "must have no control characters"))
        }
        _ => Ok(()),
    }
}

pub fn check_role(policy: &Policy, role: Option<&str>, keyspace: &str) -> Result<()> {
    let Some(role) = role else { return Ok(()) };
    // It stays until this transaction ends, unless it was removed meanwhile.
    if policy.has_role(text::to_server(role).as_bytes())
        && spi::execute(
            "SELECT FROM keysmith_private.role WHERE keyspace = $1 AND role = $2 FOR KEY SHARE",
            &[Param::text(keyspace), Param::text(role)],
        )? > 0
    {
        return Ok(());
    }
    let shown: String = role.chars().take(200).collect();
    Err(Error::not_found(format!("role {shown:?} does not exist in keyspace {keyspace:?}"))
        .hint("Define it with keysmith.define_role."))
}

/// Raises a notice for a key whose scopes, roles and tenant have no scope in common: it can do nothing.
pub fn tell_if_powerless(policy: &Policy, key_id: &[u8; 16]) -> Result<()> {
    let catalog = Catalog::open()?;
    let reader = Reader::new(&catalog);
    let rows = reader.find_by_id(key_id).ok_or_else(|| unknown_key(key_id))?;
    let (own, roles, bound) = (rows.scopes(), rows.roles(), rows.tenants_scopes());
    let held = rows.held(policy, &own, bound.as_deref());
    let is_bound = roles.iter().any(Option::is_some) || bound.is_some();
    if is_bound && held.effective().is_empty() {
        let lists = match bound {
            None => "its scopes, its role and the role of its owner",
            Some(_) => "its scopes, its role, the role of its owner and the scopes of its tenant",
        };
        pgrx::notice!("key {} can do nothing: {lists} have no scope in common", shown(key_id));
    }
    Ok(())
}

/// The owner must be a member now. A member that is removed at the same time leaves a key that is
/// refused, so the removal need not wait.
pub fn check_owner(tenant_id: &[u8; 16], owner: Option<&str>) -> Result<()> {
    use columns::member as column;
    let Some(owner) = owner else { return Ok(()) };
    let (members, snapshot) = (Catalog::open()?.tables.member.open(), Snapshot::now());
    let name = server_text(owner);
    let by_name =
        [ScanKey::uuid(column::tenant_id, tenant_id), ScanKey::text(column::member, &name)];
    match members.any(&snapshot, by_name, |_| true) {
        true => Ok(()),
        false => Err(unknown_member("owner", owner)),
    }
}

/// The networks of a cidr[] argument, as texts.
pub fn allowlist(call: &Call, n: usize) -> Result<Vec<String>> {
    Ok(networks(call, n)?.iter().map(IpNet::to_string).collect())
}

/// The networks of a cidr[] argument.
pub fn networks(call: &Call, n: usize) -> Result<Vec<IpNet>> {
    const NAME: &str = "allowlist";
    let Some(array) = call.array(n) else { return Ok(Vec::new()) };
    check_count(NAME, "networks", array.len(), MAX_NETWORKS)?;
    if array.iter().any(|network| network.is_none()) {
        return Err(Error::argument(NAME, "must not contain a null"));
    }
    Ok(varlena::networks(array).collect())
}

/// The timestamp that is later than all others.
pub const INFINITY: i64 = i64::MAX;

/// Checks that a time is in the future. Infinity means that the key does not expire.
pub fn expiry(expires_at: Option<i64>) -> Result<Option<i64>> {
    match expires_at {
        None | Some(INFINITY) => Ok(None),
        Some(moment) if moment <= clock::now() => {
            Err(Error::argument("expires_at", "must be in the future"))
        }
        moment => Ok(moment),
    }
}

/// The most characters of the reason that an act is given.
pub const MAX_REASON: usize = 1000;

/// A new secret, with its digest and the parts of it that may be shown.
pub struct Fresh {
    pub api_key: String,
    pub generation: i16,
    pub digest: [u8; DIGEST_LEN],
    pub key_prefix: String,
    pub key_snippet: String,
}

impl Fresh {
    pub fn generate(policy: &Policy, kind: &str, environment: &str) -> Result<Fresh> {
        let prefix = policy
            .prefixes
            .iter()
            .find(|known| known.kind == kind && known.environment == environment)
            .ok_or_else(|| no_prefix(kind, environment))?;
        let api_key = secret::generate(&prefix.prefix).map_err(Error::no_entropy)?;
        let Some(parts) = format::parse(api_key.as_bytes()) else {
            return Err(Error::new(Code::Installation, "a new key is not well-formed"));
        };
        let (generation, digest) = pepper::peppers().store(&KeyDigest::of(api_key.as_bytes()));
        Ok(Fresh {
            generation,
            digest,
            key_prefix: display::show(&policy.display_prefix, parts),
            key_snippet: display::show(&policy.display_snippet, parts),
            api_key,
        })
    }
}

/// A new id to show for a key, if the keyspace has a template. A short id may be taken, so this
/// tries several.
pub fn new_display_id(policy: &Policy, keyspace: &str) -> Result<Option<String>> {
    use columns::key as column;
    const TRIES: usize = 20;
    let Some(template) = &policy.display_id else { return Ok(None) };
    let keys = Catalog::open()?.tables.key_by_display_id.open();
    let keyspace = server_text(keyspace);
    for _ in 0..TRIES {
        let id = display::id(template, secret::random).map_err(Error::no_entropy)?;
        let (taken, snapshot) = (server_text(&id), Snapshot::now());
        let by_id =
            [ScanKey::text(column::keyspace, &keyspace), ScanKey::text(column::display_id, &taken)];
        if !keys.any(&snapshot, by_id, |_| true) {
            return Ok(Some(id));
        }
    }
    Err(Error::new(Code::Conflict, "the keyspace's ids are used up")
        .hint("Give its display.id template a longer random part."))
}

/// Notes the newest pepper that keys of a keyspace are stored with. A session without that pepper
/// must not store weaker digests beside them.
pub fn note_generation(policy: &Policy, keyspace: &str, generation: i16) -> Result<()> {
    if generation < policy.generation {
        return Err(Error::new(
            Code::Pepper,
            format!("keys of keyspace {keyspace:?} are stored with pepper {}", policy.generation),
        )
        .hint("Preload the library, and keep that line in the file of keysmith.pepper_file."));
    }
    if generation > policy.generation {
        spi::execute(
            // If another transaction has the row, it is about to note this, or the next key does.
            "UPDATE keysmith_private.keyspace SET generation = $2 WHERE keyspace IN (
                 SELECT keyspace FROM keysmith_private.keyspace
                 WHERE keyspace = $1 AND generation < $2 FOR NO KEY UPDATE SKIP LOCKED)",
            &[Param::text(keyspace), Param::smallint(generation)],
        )?;
    }
    Ok(())
}

pub fn no_prefix(kind: &str, environment: &str) -> Error {
    let shown: String = environment.chars().take(63).collect();
    Error::argument("environment", format!("has no prefix for {kind} keys in {shown:?}"))
        .hint("The keyspace's prefixes say which kinds and environments it has.")
}

/// The end of a row of the table `key` that its tenant and keyspace set, whatever its own expiry says.
macro_rules! latest_end {
    () => {
        "created_at + least(
             (SELECT max_lifetime FROM keysmith_private.tenant t WHERE t.tenant_id = key.tenant_id),
             (SELECT max_lifetime FROM keysmith_private.keyspace s WHERE s.keyspace = key.keyspace))"
    };
}
pub(super) use latest_end;

/// A row of the table `key` as a value of the type `keysmith_private.minted`. The value lacks the key
/// itself, which is never a parameter of a statement: see `with_api_key`.
macro_rules! minted {
    () => {
        concat!(
            "ROW(key_id, NULL, key_prefix, key_snippet, label, environment, kind, scopes,
                 least(expires_at, ",
            $crate::manage::key::latest_end!(),
            "), created_at, display_id)::keysmith_private.minted"
        )
    };
}
pub(super) use minted;

/// Has a statement that inserts a key return its id and such a value.
macro_rules! returning_minted {
    () => {
        concat!(" RETURNING key_id, ", $crate::manage::key::minted!())
    };
}
pub(super) use returning_minted;

/// Reads what such a statement returns.
pub fn made(row: spi::ResultRow) -> Option<([u8; 16], Copied)> {
    row.uuid(1).zip(row.composite(2))
}

/// Puts the key into the value that mint returns. No other value ever has it.
pub fn with_api_key(minted: &Copied, api_key: &str) -> Result<Option<Datum>> {
    Ok(Some(minted.with(API_KEY_COLUMN, Param::text(api_key))))
}

/// Of the type `keysmith_private.minted`, counted from 1.
const API_KEY_COLUMN: usize = 2;
