//! A decision from beginning to end: find the key, apply the rules, charge the request, give the
//! transaction its identity, and pass on the usage record.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, access};
use crate::decide::charge::{Charge, Identified};
use crate::decide::lookup::Reader;
use crate::decide::needs::NeededScopes;
use crate::decide::presented::Sought;
use crate::identity::{self, Identity};
use crate::limit::failures::{self, Attempt};
use crate::verdict::{Facts, Form, Holder, Standing, Verdict, Words};
use crate::{lag, request_id, usage};
use keysmith_core::policy::rules::{self, Demand};
use keysmith_core::policy::verdict::Reason;
use pg::call::{Bytes, Call};
use pg::error::{Code, Error, Result};
use pg::scratch::Memory;
use pg::{clock, transaction};
use std::rc::Rc;

/// Our tables, for a decision about keys of a keyspace, which the caller's role must reach.
#[inline]
pub fn catalog(keyspace: &[u8]) -> Result<Catalog> {
    let catalog = opened()?;
    access::must_decide(&catalog, keyspace)?;
    Ok(catalog)
}

/// Our tables. An error in a parallel worker: it has no transaction to commit, so it can neither
/// act for a key nor pass on a usage record.
#[inline]
pub fn opened() -> Result<Catalog> {
    if transaction::is_parallel_worker() {
        return Err(Error::new(Code::Conflict, "a parallel worker can't decide about keys")
            .hint("Declare the function that does PARALLEL RESTRICTED or PARALLEL UNSAFE."));
    }
    Catalog::open()
}

/// A short text argument. A text that is too long to be a name becomes the empty text, which is no
/// object's name.
pub fn name(call: &Call, n: usize) -> Option<&[u8]> {
    const MOST: usize = 256;
    match call.bytes(n, MOST) {
        None => None,
        Some(Bytes::TooLong) => Some(&b""[..]),
        Some(Bytes::Read(name)) => Some(name),
    }
}

/// The question that a decision answers about a key.
pub struct Decision<'a> {
    reader: &'a Reader<'a>,
    policy: Rc<Policy>,
    keyspace: &'a [u8],
    needs: &'a NeededScopes<'a>,
    pub demand: Demand<'a>,
    /// Whether the transaction acts for the key from now on, if the key is accepted.
    pub signs_in: bool,
    /// Whether a request without a key is let through.
    pub is_public: bool,
    pub charge: Charge<'a>,
    /// Method and path of the request, if they are known.
    pub request: usage::Request<'a>,
}

impl<'a> Decision<'a> {
    pub fn new(
        reader: &'a Reader<'a>,
        policy: Rc<Policy>,
        keyspace: &'a [u8],
        needs: &'a NeededScopes<'a>,
    ) -> Decision<'a> {
        Decision {
            reader,
            policy,
            keyspace,
            needs,
            demand: demand(needs),
            signs_in: false,
            is_public: false,
            charge: Charge::default(),
            request: usage::Request::default(),
        }
    }

    /// Decides, and forms the verdict in a memory context.
    pub fn verdict<'m, F: Form>(
        &self,
        memory: Memory<'m>,
        sought: std::result::Result<Sought, Reason>,
    ) -> Result<Verdict<'m, F>> {
        if self.signs_in {
            identity::must_be_free()?;
        }
        let rows = match sought {
            Ok(_) if self.is_behind() => Err(Reason::ReplicaBehind),
            Ok(sought) => self.reader.find(sought, self.keyspace),
            // The route may be public no longer.
            Err(Reason::Missing) if self.is_public && self.is_behind() => {
                Err(Reason::ReplicaBehind)
            }
            Err(Reason::Missing) if self.is_public => Err(Reason::Public),
            Err(reason) => Err(reason),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(Reason::Public) => {
                usage::unrecorded();
                return Ok(self.without_key(memory, Reason::Public, &Standing::default()));
            }
            Err(reason) => {
                let (reason, standing) = self.after_failures(reason);
                usage::unknown(&self.policy, self.keyspace, &self.noted(), reason);
                return Ok(self.without_key(memory, reason, &standing));
            }
        };
        let own = rows.scopes();
        let bound = rows.tenants_scopes();
        let bound = bound.as_deref();
        let held = rows.held(&self.policy, &own, bound);
        let allowlists = rows.allowlists(&self.policy);
        let expires_at = rows.life(&self.policy).end();
        let found = rows.found(expires_at, held, allowlists.as_ref());
        let effective = held.effective();
        let holder = rows.holder(expires_at, self.keyspace, &own, bound, &effective);

        let request_id = request_id::next(self.demand.now);
        let (reason, mut standing) = match rules::decide(&found, &self.demand) {
            Reason::Ok => {
                let catalog = self.reader.catalog;
                let (key_id, address) = (&holder.key_id, self.demand.address);
                let request = Identified { key_id, request_id: &request_id, address };
                self.charge.collect(catalog, &self.policy, &holder.account, &request)?
            }
            reason => self.after_failures(reason),
        };
        if reason == Reason::InsufficientScope {
            standing.missing_scopes = self.needs.missing(&held);
        }
        let verdict = self.answer(memory, reason, Some(&holder), &standing, &request_id);
        if self.signs_in {
            let (address, request_id) = (self.demand.address, verdict.request_id);
            let identity = (reason == Reason::Ok)
                .then(|| Identity::new(&holder, &self.policy, self.reader, address, request_id));
            identity::sign_in(identity);
        }
        usage::decided(&self.policy, &self.noted(), &holder, reason, &verdict);
        Ok(verdict)
    }

    /// The reason of a refusal, after it was counted as a failed attempt of the request's address.
    #[inline]
    fn after_failures<'s>(&self, reason: Reason) -> (Reason, Standing<'s>) {
        let mut standing = Standing::default();
        if let Some(limit) = &self.policy.failure_limit
            && let Some(address) = self.demand.address
            && reason.is_failed_attempt()
            && let Attempt::TooMany { retry_after } = failures::count(self.keyspace, address, limit)
        {
            standing.retry_after = Some(retry_after);
            return (Reason::TooManyFailures, standing);
        }
        (reason, standing)
    }

    #[inline]
    fn is_behind(&self) -> bool {
        lag::is_guarded()
            && lag::is_behind(self.reader.catalog, self.reader.snapshot(), self.demand.now)
    }

    /// The verdict if no key was given or found.
    fn without_key<'m, F: Form>(
        &self,
        memory: Memory<'m>,
        reason: Reason,
        standing: &Standing,
    ) -> Verdict<'m, F> {
        if self.signs_in {
            identity::sign_in(None);
        }
        let request_id = request_id::next(self.demand.now);
        self.answer(memory, reason, None, standing, &request_id)
    }

    #[inline]
    fn answer<'m, F: Form>(
        &self,
        memory: Memory<'m>,
        reason: Reason,
        holder: Option<&Holder>,
        standing: &Standing,
        request_id: &[u8; 16],
    ) -> Verdict<'m, F> {
        usage::count(reason, self.reader.take_miss());
        let catalog = self.reader.catalog;
        let policy = &*self.policy;
        let keyspace = policy.existing(self.keyspace);
        let words = Words::of(policy, reason);
        let facts = Facts { keyspace, reason, words, holder, standing, request_id };
        Verdict::form(memory, catalog, &facts)
    }

    /// The request as usage records contain it.
    fn noted(&self) -> usage::Request<'a> {
        usage::Request {
            address: self.demand.address,
            at: self.demand.now,
            spend: self.charge.spend,
            weights: self.charge.weights,
            subject: self.charge.subject,
            ..self.request
        }
    }
}

/// A demand for scopes only, as of now.
pub fn demand<'a>(needs: &'a NeededScopes<'a>) -> Demand<'a> {
    Demand { environment: None, kind: None, scopes: needs, address: None, now: clock::now() }
}
