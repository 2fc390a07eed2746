//! One decision: what is asked, the policy by which it is answered, and the answer.

use super::allowlists;
use super::lookup::{Lookup, Reader};
use super::needs::Needs;
use super::toll::{Account, Standing, Toll};
use super::verdict::{Holder, Verdict};
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns, directory};
use crate::identity::{self, Identity};
use crate::{lag, usage};
use keysmith_core::directory::{Entry, Places};
use keysmith_core::key::digest::KeyDigest;
use keysmith_core::key::format;
use keysmith_core::policy::allowlist::Allowlist;
use keysmith_core::policy::rules::{self, Demand, Found, Kind};
use keysmith_core::policy::verdict::Reason;
use pg::call::{Bytes, Call};
use pg::error::{Code, Error, Result};
use pg::scan::Row;
use pgrx::pg_sys;
use std::cell::Cell;
use std::rc::Rc;

/// What was handed in for a key.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    Nothing,
    Key(&'a [u8]),
    Digest(KeyDigest),
    /// Something that no key could be.
    Garbage,
    /// A header that holds none.
    MalformedHeader,
}

impl<'a> Presented<'a> {
    /// What to look for a key by, or why there is nothing to look for.
    #[inline]
    pub fn sought(self, policy: &Policy) -> std::result::Result<Sought<'a>, Reason> {
        match self {
            Presented::Nothing => Err(Reason::Missing),
            Presented::MalformedHeader => Err(Reason::MalformedHeader),
            Presented::Garbage => Err(Reason::MalformedKey),
            // Imported keys have formats of their own; elsewhere typos end here.
            Presented::Key(key) if !policy.has_imports && !format::is_well_formed(key) => {
                Err(Reason::MalformedKey)
            }
            Presented::Key(key) => Ok(Sought::Key(policy.hashed_part(key))),
            Presented::Digest(digest) => Ok(Sought::Digest(digest)),
        }
    }
}

/// What a key is looked for by.
#[derive(Clone, Copy)]
pub enum Sought<'a> {
    /// That of which the digest is taken.
    Key(&'a [u8]),
    Digest(KeyDigest),
}

impl Sought<'_> {
    pub fn digest(&self) -> KeyDigest {
        match self {
            Sought::Key(key) => KeyDigest::of(key),
            Sought::Digest(digest) => *digest,
        }
    }

    /// What the directory tells of it.
    #[inline]
    fn known(&self, keyspace: &[u8]) -> Option<directory::Known> {
        match self {
            Sought::Key(key) => directory::look_up(keyspace, directory::Form::Key, key),
            Sought::Digest(digest) => {
                directory::look_up(keyspace, directory::Form::Digest, &digest.0)
            }
        }
    }
}

/// Has the directory know of a key that was found.
fn note(known: &directory::Known, key: &Row, places: Places) {
    use columns::key as column;
    let digest = key.bytes(column::digest).and_then(|digest| digest.try_into().ok());
    if let (Some(digest), Some(generation)) = (digest, key.smallint(column::generation)) {
        known.note(&Entry { digest, generation, places });
    }
}

/// The tables, for a decision. A parallel worker has no transaction that it could commit, so
/// it can neither act for a key nor hand on a record.
#[inline]
pub fn catalog() -> Result<Catalog> {
    // SAFETY: set when the process began.
    if unsafe { pg_sys::ParallelWorkerNumber } >= 0 {
        return Err(Error::new(Code::Conflict, "a parallel worker can't decide about keys")
            .hint("Declare the function that does PARALLEL RESTRICTED or PARALLEL UNSAFE."));
    }
    Catalog::open()
}

/// A short text argument. One that is too long is as good as one that nothing has.
pub fn name(call: &Call, n: usize) -> Option<&[u8]> {
    const MOST: usize = 256;
    match call.bytes(n, MOST) {
        None => None,
        Some(Bytes::TooLong) => Some(&b""[..]),
        Some(Bytes::Read(name)) => Some(name),
    }
}

/// Says what to look for a key by, or why there is nothing to look for; and gives the policy
/// to decide by. A key that is refused before any row is read is refused by the policy as it
/// was last read. Otherwise the policy is the one that the reader sees with the rows, and the
/// moment of the reader is fixed.
#[inline]
pub fn sought<'a>(
    reader: &Reader,
    keyspace: &[u8],
    presented: impl Fn(&Policy) -> Presented<'a>,
) -> Result<(Rc<Policy>, std::result::Result<Sought<'a>, Reason>)> {
    let policy = match reader.catalog.remembered(keyspace) {
        Some(policy) => {
            let sought = presented(&policy).sought(&policy);
            if sought.is_err() || reader.catalog.is_seen(&policy, reader.snapshot(), keyspace) {
                return Ok((policy, sought));
            }
            reader.catalog.read_policy(reader.snapshot(), keyspace)?
        }
        None => reader.policy(keyspace)?,
    };
    let sought = presented(&policy).sought(&policy);
    Ok((policy, sought))
}

pub struct Decision<'a> {
    reader: &'a Reader<'a>,
    policy: Rc<Policy>,
    keyspace: &'a [u8],
    pub demand: Demand<'a>,
    /// Whether the transaction is to act for the key from now on, if it is let in.
    pub signs_in: bool,
    pub toll: Toll<'a>,
    /// Method and path of the request, where they are known.
    pub request: usage::Request<'a>,
}

impl<'a> Decision<'a> {
    pub fn new(
        reader: &'a Reader<'a>,
        policy: Rc<Policy>,
        keyspace: &'a [u8],
        needs: &'a Needs<'a>,
    ) -> Decision<'a> {
        let demand = Demand {
            environment: None,
            kind: None,
            scopes: needs,
            address: None,
            // SAFETY: reads the clock.
            now: unsafe { pg_sys::GetCurrentTimestamp() },
        };
        Decision {
            reader,
            policy,
            keyspace,
            demand,
            signs_in: false,
            toll: Toll::default(),
            request: usage::Request::default(),
        }
    }

    pub fn verdict(&self, sought: std::result::Result<Sought, Reason>) -> Result<Verdict> {
        if self.signs_in {
            identity::must_be_free()?;
        }
        let sought = match sought {
            Ok(sought) => sought,
            Err(reason) => return Ok(self.refusal(reason)),
        };
        if lag::is_behind(self.demand.now) {
            return Ok(self.refusal(Reason::ReplicaBehind));
        }
        let known = sought.known(self.keyspace);
        if let Some(known) = &known
            && let Some(entry) = known.entry
            && let Some(row) = self.reader.key_at(&entry, self.keyspace)
        {
            let places = Cell::new(entry.places);
            let verdict = self.gather(&row, &places, |found, holder| self.conclude(found, holder));
            known.note(&Entry { places: places.get(), ..entry });
            return verdict;
        }
        let looked_up = self.reader.key(&sought.digest(), self.keyspace, |row| {
            let places = Cell::new(Places { key: row.place(), ..Places::default() });
            let verdict = self.gather(row, &places, |found, holder| self.conclude(found, holder));
            if let Some(known) = &known {
                note(known, row, places.get());
            }
            verdict
        });
        match looked_up {
            Lookup::Here(verdict) => verdict,
            Lookup::InOtherKeyspace => Ok(self.refusal(Reason::WrongKeyspace)),
            Lookup::Nowhere => Ok(self.refusal(Reason::NotFound)),
        }
    }

    /// The answer about a key that was found.
    fn conclude(&self, found: &Found, holder: &Holder) -> Result<Verdict> {
        let mut reason = rules::decide(found, &self.demand);
        let mut standing = Standing::default();
        if reason == Reason::Ok {
            (reason, standing) =
                self.toll.collect(self.reader.catalog, &self.policy, &holder.account)?;
        }
        let verdict = self.answer(reason, Some(holder), &standing);
        if self.signs_in {
            let (address, request_id) = (self.demand.address, verdict.request_id);
            let identity = (reason == Reason::Ok)
                .then(|| Identity::new(holder, &self.policy, self.reader, address, request_id));
            identity::sign_in(identity);
        }
        usage::decided(&self.policy, &self.noted(), holder, reason, &verdict);
        Ok(verdict)
    }

    /// A refusal that tells of no key.
    fn refusal(&self, reason: Reason) -> Verdict {
        if self.signs_in {
            identity::sign_in(None);
        }
        usage::unknown(&self.policy, self.keyspace, &self.noted(), reason);
        self.answer(reason, None, &Standing::default())
    }

    #[inline]
    fn answer(&self, reason: Reason, holder: Option<&Holder>, standing: &Standing) -> Verdict {
        Verdict::form(self.reader.catalog, &self.policy, reason, holder, standing, self.demand.now)
    }

    /// The request, as usage records tell of it.
    fn noted(&self) -> usage::Request<'a> {
        usage::Request { address: self.demand.address, at: self.demand.now, ..self.request }
    }

    /// Hands on what the tables say of a key, or says why it is none of this keyspace.
    pub fn look_up<T>(
        &self,
        digest: &KeyDigest,
        with: impl FnOnce(&Found, &Holder) -> T,
    ) -> std::result::Result<T, Reason> {
        let nowhere = Cell::default();
        match self.reader.key(digest, self.keyspace, |row| self.gather(row, &nowhere, with)) {
            Lookup::Here(result) => Ok(result),
            Lookup::InOtherKeyspace => Err(Reason::WrongKeyspace),
            Lookup::Nowhere => Err(Reason::NotFound),
        }
    }

    /// Gathers what there is to a key: its row, its tenant's, its owner's. They are
    /// looked for in their places first, which are then noted.
    pub fn gather<T>(
        &self,
        key: &Row,
        places: &Cell<Places>,
        with: impl FnOnce(&Found, &Holder) -> T,
    ) -> T {
        use columns::key as column;
        let tenant_id = key.uuid(column::tenant_id).unwrap_or_default();
        let own: Vec<&[u8]> = match key.array(column::scopes) {
            Some(scopes) if scopes.len() > 0 => scopes.iter().flatten().collect(),
            _ => Vec::new(),
        };
        let key_id = key.uuid(column::key_id).unwrap_or_default();
        let allowlist = key.datum(column::allowlist).map(|list| {
            // SAFETY: the column is a cidr[], and the row is pinned.
            unsafe { allowlists::of_key(key_id, list) }
        });
        self.reader.tenant(&tenant_id, places, |tenant| {
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
                    key_id,
                    tenant: tenant.and_then(|row| row.bytes(columns::tenant::name)),
                    tenant_id,
                    keyspace: self.keyspace,
                    environment: found.environment,
                    kind: key.bytes(column::kind).unwrap_or_default(),
                    owner: key.bytes(column::owner),
                    role: role.or(owners_role),
                    own: &own,
                    roles: [role, owners_role],
                    scopes: &held.effective(),
                    metadata: key.datum(column::metadata),
                    expires_at: found.expires_at,
                    account: Account {
                        keyspace: self.keyspace,
                        environment: found.environment,
                        key: key.uuid(column::origin).unwrap_or(key_id),
                        tenant: tenant_id,
                        purse: key.uuid(column::purse),
                        limits: key.bytes(column::limits),
                        shared_limits: key.bytes(column::shared_limits),
                        tenants_limits: tenant.and_then(|row| row.bytes(columns::tenant::limits)),
                    },
                };
                with(&found, &holder)
            };
            match key.bytes(column::owner) {
                None => conclude(false, None),
                Some(owner) => self.reader.member(&tenant_id, owner, places, |member| {
                    let role = member.and_then(|row| row.bytes(columns::member::role));
                    conclude(member.is_none(), role)
                }),
            }
        })
    }
}
