//! `verify`, `verify_many` and `verify_digest`, top to bottom.

use super::lookup::{Lookup, Reader};
use super::verdict::{Holder, Verdict};
use crate::call::{Bytes, Call, sql_functions};
use crate::catalog::policy::Policy;
use crate::catalog::scan::Row;
use crate::catalog::{Catalog, columns};
use crate::error::Result;
use crate::varlena::{RequiredScopes, StoredAllowlist};
use keysmith_core::key::digest::{DIGEST_LEN, KeyDigest};
use keysmith_core::key::{MAX_KEY_LEN, format};
use keysmith_core::policy::allowlist::Allowlist;
use keysmith_core::policy::rules::{self, Demand, Found, Kind};
use keysmith_core::policy::verdict::Reason;
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_verify => verify;
    keysmith_verify_digest => verify_digest;
    keysmith_verify_many => verify_many;
}

/// What was handed in for a key.
enum Presented<'a> {
    Nothing,
    Key(&'a [u8]),
    Digest(KeyDigest),
    Garbage,
}

fn verify(call: &Call) -> Result<Option<Datum>> {
    let presented = match call.bytes(0, MAX_KEY_LEN) {
        None => Presented::Nothing,
        Some(Bytes::TooLong) => Presented::Garbage,
        Some(Bytes::Read(key)) => Presented::Key(key),
    };
    one(call, presented)
}

fn verify_digest(call: &Call) -> Result<Option<Datum>> {
    let presented = match call.bytes(0, DIGEST_LEN) {
        None => Presented::Nothing,
        Some(Bytes::TooLong) => Presented::Garbage,
        Some(Bytes::Read(bytes)) => {
            KeyDigest::from_slice(bytes).map_or(Presented::Garbage, Presented::Digest)
        }
    };
    one(call, presented)
}

fn one(call: &Call, presented: Presented) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    let scopes = RequiredScopes(call.array(1));
    let decision = Decision::new(call, &catalog, &scopes)?;
    let verdict = decision.verdict(None, presented)?;
    Ok(Some(verdict.into_datum()))
}

/// A verdict for each key of an array, in its order, all under one snapshot.
fn verify_many(call: &Call) -> Result<Option<Datum>> {
    let catalog = Catalog::open()?;
    let scopes = RequiredScopes(call.array(1));
    let decision = Decision::new(call, &catalog, &scopes)?;
    // SAFETY: the function is declared to return a set of verdicts.
    let result = unsafe {
        pg_sys::InitMaterializedSRF(call.frame(), 0);
        &*(*call.frame()).resultinfo.cast::<pg_sys::ReturnSetInfo>()
    };
    let Some(keys) = call.array(0) else { return Ok(None) };
    let reader = Reader::open(&catalog);
    let mut scratch = pgrx::PgMemoryContexts::new("keysmith verify_many");
    for key in keys.iter() {
        pgrx::check_for_interrupts!();
        let presented = match key {
            None => Presented::Nothing,
            Some(key) if key.len() > MAX_KEY_LEN => Presented::Garbage,
            Some(key) => Presented::Key(key),
        };
        // SAFETY: the row is copied into the store before the scratch is reset.
        unsafe {
            scratch.switch_to(|_| {
                let verdict = decision.verdict(Some(&reader), presented)?;
                verdict.put(result.setResult);
                Ok(())
            })?;
            scratch.reset();
        }
    }
    Ok(None)
}

/// What is asked, and the policy by which it is answered.
struct Decision<'a> {
    catalog: &'a Catalog,
    policy: std::rc::Rc<Policy>,
    keyspace: &'a [u8],
    demand: Demand<'a>,
}

/// More than any keyspace's, kind's or environment's name has: longer ones are none.
const MAX_NAME_LEN: usize = 256;

impl<'a> Decision<'a> {
    /// The arguments after the first: scopes, ip, keyspace, kind, environment.
    fn new(
        call: &'a Call,
        catalog: &'a Catalog,
        scopes: &'a RequiredScopes<'a>,
    ) -> Result<Decision<'a>> {
        // A name too long is as good as one that nothing has.
        let name = |n| match call.bytes(n, MAX_NAME_LEN) {
            None => None,
            Some(Bytes::TooLong) => Some(&b""[..]),
            Some(Bytes::Read(name)) => Some(name),
        };
        let keyspace = name(3).unwrap_or_default();
        Ok(Decision {
            catalog,
            policy: catalog.policy(keyspace)?,
            keyspace,
            demand: Demand {
                environment: name(5),
                kind: name(4),
                scopes,
                address: call.address(2),
                // SAFETY: reads the clock.
                now: unsafe { pg_sys::GetCurrentTimestamp() },
            },
        })
    }

    fn verdict(&self, reader: Option<&Reader>, presented: Presented) -> Result<Verdict> {
        let digest = match presented {
            Presented::Nothing => return Ok(self.refusal(Reason::Missing)),
            Presented::Garbage => return Ok(self.refusal(Reason::MalformedKey)),
            // Imported keys have formats of their own; elsewhere typos end here.
            Presented::Key(key) if !self.policy.has_imports && !format::is_well_formed(key) => {
                return Ok(self.refusal(Reason::MalformedKey));
            }
            Presented::Key(key) => KeyDigest::of(key),
            Presented::Digest(digest) => digest,
        };
        let opened;
        let reader = match reader {
            Some(reader) => reader,
            None => {
                opened = Reader::open(self.catalog);
                &opened
            }
        };
        let lookup = reader.key(&digest, self.keyspace, |row| self.verdict_on(reader, row))?;
        Ok(match lookup {
            Lookup::Here(verdict) => verdict,
            Lookup::InOtherKeyspace => self.refusal(Reason::WrongKeyspace),
            Lookup::Nowhere => self.refusal(Reason::NotFound),
        })
    }

    /// A refusal that tells of no key.
    fn refusal(&self, reason: Reason) -> Verdict {
        Verdict::form(self.catalog, reason, None)
    }

    /// Decides about a key that was found in the keyspace.
    fn verdict_on(&self, reader: &Reader, key: &Row) -> Verdict {
        use columns::key as column;
        let tenant_id = key.uuid(column::tenant_id).unwrap_or_default();
        let own: Vec<&[u8]> = match key.array(column::scopes) {
            Some(scopes) if scopes.len() > 0 => scopes.iter().flatten().collect(),
            _ => Vec::new(),
        };
        let allowlist = key.array(column::allowlist).map(StoredAllowlist);
        reader.tenant(&tenant_id, |tenant| {
            let conclude = |owner_gone: bool, owners_role: Option<&[u8]>| {
                let role = key.bytes(column::role);
                let held = self.policy.held(&own, [role, owners_role]);
                let suspended = columns::tenant::suspended_at;
                let found = Found {
                    environment: key.bytes(column::environment).unwrap_or_default(),
                    kind: key.bytes(column::kind).and_then(Kind::parse),
                    revoked_at: key.timestamp(column::revoked_at),
                    expires_at: key.timestamp(column::expires_at),
                    disabled: key.datum(column::disabled_at).is_some(),
                    // A foreign key sees to it that there is a tenant; without one
                    // nobody could be let in.
                    tenant_suspended: tenant.is_none_or(|row| row.datum(suspended).is_some()),
                    owner_gone,
                    allowlist: allowlist.as_ref().map(|list| list as &dyn Allowlist),
                    held,
                };
                let holder = Holder {
                    key_id: key.datum(column::key_id),
                    tenant: tenant.and_then(|row| row.datum(columns::tenant::name)),
                    tenant_id: key.datum(column::tenant_id),
                    keyspace: key.datum(column::keyspace),
                    environment: key.datum(column::environment),
                    kind: key.datum(column::kind),
                    owner: key.datum(column::owner),
                    role: role.or(owners_role),
                    scopes: &held.effective(),
                    metadata: key.datum(column::metadata),
                    expires_at: key.datum(column::expires_at),
                };
                let reason = rules::decide(&found, &self.demand);
                Verdict::form(self.catalog, reason, Some(&holder))
            };
            match key.bytes(column::owner) {
                None => conclude(false, None),
                Some(owner) => reader.member(&tenant_id, owner, |member| {
                    let role = member.and_then(|row| row.bytes(columns::member::role));
                    conclude(member.is_none(), role)
                }),
            }
        })
    }
}
