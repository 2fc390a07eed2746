//! The identity: the key that a transaction acts for after a successful decision, or the person
//! whom `act_as` signed in.
//!
//! It is in the memory of this backend only, so no SQL that sets, reads or sends a value can forge
//! it. It ends with the transaction. Rolling back to a savepoint restores the identity before it.
//!
//! Each use checks that no transaction has committed since the identity was last valid. If one has,
//! the key or person is decided about again. PostgreSQL counts the transactions that changed something, so as
//! long as nothing changes, a check only reads that count.

use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, invalidation};
use crate::decide::lookup::Reader;
use crate::decide::needs::{self, NeededScopes};
use crate::decide::token;
use crate::lag;
use crate::verdict::Holder;
use keysmith_core::policy::expression::Expression;
use keysmith_core::policy::rules::{self, Demand};
use keysmith_core::policy::scope::HeldScopes;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::verify::Token;
use pg::call::{Bytes, Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::function_start::{self, Watched};
use pg::scan::transactions_ended;
use pg::transaction::{self, PerTransaction};
use pg::{clock, datum};
use pgrx::pg_sys::{Datum, SubTransactionId};
use std::net::IpAddr;
use std::rc::Rc;

sql_functions! {
    keysmith_current_tenant => current_tenant;
    keysmith_current_tenant_id => current_tenant_id;
    keysmith_current_keyspace => current_keyspace;
    keysmith_current_key => current_key;
    keysmith_current_environment => current_environment;
    keysmith_current_owner => current_owner;
    keysmith_has_scope => has_scope;
    keysmith_require_identity => require_identity;
    keysmith_sign_out => sign_out_at_will;
}

type Bytes16 = [u8; 16];
type Text = Box<[u8]>;

/// A key that a decision accepted, or a person, as it was when it was last valid.
#[derive(Clone)]
pub struct Identity {
    /// `None` for a person.
    pub key: Option<Key>,
    pub tenant_id: Bytes16,
    pub tenant: Text,
    pub keyspace: Text,
    /// The owner of the key; or the member, unless the person acts for the tenant as a whole.
    pub owner: Option<Text>,
    /// The scopes of the key, and the names of the roles of the key and of its owner. A person has
    /// no scopes, and the role of the member in the owner's place.
    pub scopes: Vec<Text>,
    /// The scopes that no key of the tenant goes beyond.
    bound: Option<Vec<Text>>,
    pub roles: [Option<Text>; 2],
    /// The id of the request in which it was accepted.
    pub request_id: [u8; 16],
    /// When the key or the token expires.
    pub expires_at: Option<i64>,
    address: Option<IpAddr>,
    /// The policy by which it was last valid.
    pub policy: Rc<Policy>,
    /// The counts of ended transactions and of changes before it was last valid.
    found_at: u64,
    changes: u64,
    /// The publisher's heartbeat that was heard then, on a subscriber with the lag guard.
    heard: Option<i64>,
}

/// The key of an identity.
#[derive(Clone)]
pub struct Key {
    pub id: Bytes16,
    pub environment: Text,
    pub is_secret: bool,
    /// The token that was presented in place of the key.
    pub token: Option<Rc<Token>>,
}

thread_local! {
    /// The last entry is in force; `None` means that there is no identity.
    static IDENTITIES: PerTransaction<Option<Rc<Identity>>> = const { PerTransaction::new() };
}

impl Identity {
    /// The identity of a key that was just accepted by a policy, with what the reader saw.
    pub fn new(
        holder: &Holder,
        policy: &Rc<Policy>,
        reader: &Reader,
        address: Option<IpAddr>,
        request_id: [u8; 16],
    ) -> Identity {
        Identity {
            key: Some(Key {
                id: holder.key_id,
                environment: holder.environment.into(),
                is_secret: holder.kind == b"secret",
                token: holder.token.cloned(),
            }),
            tenant_id: holder.tenant_id,
            tenant: holder.tenant.unwrap_or_default().into(),
            keyspace: holder.keyspace.into(),
            owner: holder.owner.map(Text::from),
            scopes: texts(holder.own),
            bound: holder.bound.map(texts),
            request_id,
            roles: holder.roles.map(|role| role.map(Text::from)),
            expires_at: holder.expires_at,
            address,
            policy: policy.clone(),
            found_at: reader.snapshot().ended_before(),
            changes: reader.changes(),
            heard: heard(reader),
        }
    }

    /// The identity of a member of a tenant, or of the tenant as a whole, if it may act now.
    pub fn of_person(
        reader: &Reader,
        tenant_id: Bytes16,
        keyspace: &[u8],
        member: Option<&[u8]>,
        request_id: Bytes16,
    ) -> Result<std::result::Result<Identity, Reason>> {
        if lag::is_behind(reader.catalog, reader.snapshot(), clock::now()) {
            return Ok(Err(Reason::ReplicaBehind));
        }
        let policy = reader.policy(keyspace)?;
        let rows = match reader.find_person(&tenant_id, member) {
            Ok(rows) => rows,
            Err(reason) => return Ok(Err(reason)),
        };
        let [owner, role] = rows.member().map(|text| text.map(Text::from));
        Ok(Ok(Identity {
            key: None,
            tenant_id,
            tenant: rows.tenant().into(),
            keyspace: keyspace.into(),
            owner,
            scopes: Vec::new(),
            bound: None,
            roles: [None, role],
            request_id,
            expires_at: None,
            address: None,
            policy,
            found_at: reader.snapshot().ended_before(),
            changes: reader.changes(),
            heard: heard(reader),
        }))
    }

    /// The member if it is a person; empty for a tenant as a whole.
    pub fn person(&self) -> Option<&[u8]> {
        self.key.is_none().then(|| self.owner.as_deref().unwrap_or_default())
    }

    /// The environment of the key. A person reaches all environments.
    pub fn environment(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|key| &*key.environment)
    }

    #[inline]
    fn is_fresh(&self) -> bool {
        self.found_at == transactions_ended()
            && self.changes == invalidation::changes()
            && self.expires_at.is_none_or(|at| at > clock::now())
            && !(lag::is_guarded() && lag::has_lapsed(self.heard, clock::now()))
    }

    /// The identity with the present rows, if it would still be accepted.
    fn found_again(&self) -> Result<Identity> {
        let catalog = Catalog::open()?;
        let reader = Reader::new(&catalog);
        let Some(key) = &self.key else {
            let owner = self.owner.as_deref();
            return Identity::of_person(
                &reader,
                self.tenant_id,
                &self.keyspace,
                owner,
                self.request_id,
            )?
            .map_err(person_is_over);
        };
        let policy = reader.policy(&self.keyspace)?;
        let demand = Demand {
            environment: None,
            kind: None,
            scopes: &NeededScopes::Nothing,
            address: self.address,
            now: clock::now(),
        };
        if lag::is_behind(&catalog, reader.snapshot(), demand.now) {
            return Err(is_over(Reason::ReplicaBehind));
        }
        if key.token.as_ref().is_some_and(|token| token::is_over(token, &policy, &self.keyspace)) {
            return Err(is_over(Reason::TokenInvalid));
        }
        let rows = reader.find_by_id(&key.id).ok_or_else(|| is_over(Reason::NotFound))?;
        let rows = rows.with(key.token.clone());
        let own = rows.scopes();
        let bound = rows.tenants_scopes();
        let bound = bound.as_deref();
        let held = rows.held(&policy, &own, bound);
        let allowlists = rows.allowlists(&policy);
        let expires_at = rows.life(&policy).end();
        let found = rows.found(expires_at, held, allowlists.as_ref());
        match rules::decide(&found, &demand) {
            Reason::Ok => {
                let effective = held.effective();
                let holder = rows.holder(expires_at, &self.keyspace, &own, bound, &effective);
                Ok(Identity::new(&holder, &policy, &reader, self.address, self.request_id))
            }
            reason => Err(is_over(reason)),
        }
    }

    /// Whether it holds the scopes that an expression requires.
    pub fn holds(&self, required: &Expression) -> bool {
        self.held(|held| required.holds(&|scope| held.covers(scope)))
    }

    /// Passes what the key and its roles hold, or the token, or the person, to `with`.
    pub fn held<T>(&self, with: impl FnOnce(&HeldScopes) -> T) -> T {
        let (own, bound) = (borrowed(&self.scopes), self.bound.as_deref().map(borrowed));
        let roles = [self.roles[0].as_deref(), self.roles[1].as_deref()];
        let Some(key) = &self.key else { return with(&self.policy.held_by_person(roles[1])) };
        let held = self.policy.held(&own, roles).bounded(bound.as_deref());
        match &key.token {
            None => with(&held),
            Some(token) => with(&held.narrowed(token.scopes())),
        }
    }
}

fn texts(list: &[&[u8]]) -> Vec<Text> {
    list.iter().map(|text| Text::from(*text)).collect()
}

fn borrowed(list: &[Text]) -> Vec<&[u8]> {
    list.iter().map(|text| &**text).collect()
}

/// The publisher's heartbeat that the reader sees, on a subscriber with the lag guard.
fn heard(reader: &Reader) -> Option<i64> {
    let heard = || lag::heard(reader.catalog, reader.snapshot(), clock::now());
    lag::is_guarded().then(heard).flatten()
}

/// The error for an identity that is no longer valid. The rest of the transaction must not run
/// without an identity, since policies would show it empty tables.
fn is_over(reason: Reason) -> Error {
    let why = match reason {
        Reason::Revoked => "the key that this transaction acts for was revoked",
        Reason::Expired => "the key that this transaction acts for has expired",
        Reason::TokenExpired => "the token that this transaction acts by has expired",
        Reason::TokenInvalid => "the token that this transaction acts by is no longer valid",
        Reason::Disabled => "the key that this transaction acts for was disabled",
        Reason::Idle => {
            "the key that this transaction acts for was disabled, because it was not used"
        }
        Reason::TenantSuspended => "the tenant that this transaction acts for was suspended",
        Reason::OwnerGone => "the owner of the key that this transaction acts for was removed",
        Reason::ReplicaBehind => {
            "this server has fallen behind: the key that this transaction acts for may be over"
        }
        Reason::IpNotAllowed | Reason::IpUnknown => {
            "the key that this transaction acts for may no longer be used from its address"
        }
        _ => "the key that this transaction acts for is gone",
    };
    over(why)
}

pub fn person_is_over(reason: Reason) -> Error {
    over(match reason {
        Reason::TenantSuspended => "the tenant that this transaction acts for was suspended",
        Reason::OwnerGone => "the member that this transaction acts for was removed",
        Reason::ReplicaBehind => {
            "this server has fallen behind: the person that this transaction acts for may be over"
        }
        _ => "the tenant that this transaction acts for is gone",
    })
}

fn over(why: &str) -> Error {
    Error::new(Code::IdentityOver, why).hint("Roll back, and authenticate again.")
}

/// The identity in force, after checking that it is still valid.
#[inline]
pub fn current() -> Result<Option<Rc<Identity>>> {
    let known = IDENTITIES.with(|memory| {
        memory.change(|list| list.last().and_then(|(_, identity)| identity.clone()))
    });
    let Some(identity) = known else { return Ok(None) };
    if identity.is_fresh() {
        return Ok(Some(identity));
    }
    let again = Rc::new(identity.found_again()?);
    IDENTITIES.with(|memory| {
        memory.change(|list| {
            if let Some((_, in_force)) = list.last_mut() {
                *in_force = Some(again.clone());
            }
        });
    });
    Ok(Some(again))
}

/// Checks at the end of an act that the key or person still may act. The act may have waited for the
/// transaction that ended it, and a revocation holds from its commit on. What this transaction
/// itself did to the key does not count.
pub fn must_still_act() -> Result<()> {
    current().map(|_| ()).or_else(|is_over| if is_changed_here()? { Ok(()) } else { Err(is_over) })
}

/// Whether this transaction changed the key that it acts for.
fn is_changed_here() -> Result<bool> {
    let key = IDENTITIES.with(|memory| {
        memory.change(|list| list.last().and_then(|(_, of)| Some(of.as_ref()?.key.as_ref()?.id)))
    });
    let Some(key_id) = key else { return Ok(false) };
    let catalog = Catalog::open()?;
    let reader = Reader::new(&catalog);
    Ok(reader.find_by_id(&key_id).is_some_and(|rows| rows.key().version().is_own()))
}

/// Checks that the running code may change the identity. If a role analyzes a table or refreshes a
/// view, code of its owner runs in that role's transaction, and must not leave state behind.
pub fn must_be_free() -> Result<()> {
    if transaction::is_parallel_worker() {
        return Err(Error::new(Code::Conflict, "a parallel worker can't sign in or out"));
    }
    if transaction::is_security_restricted() {
        let message =
            "who a transaction acts for can't be changed in a security-restricted operation";
        return Err(Error::new(Code::NotAllowed, message));
    }
    Ok(())
}

/// Whether the transaction acts for a key, valid or not.
pub fn is_of_key() -> bool {
    IDENTITIES.with(|memory| {
        memory.change(|list| {
            let in_force = list.last().and_then(|(_, identity)| identity.as_ref());
            in_force.is_some_and(|identity| identity.key.is_some())
        })
    })
}

/// Puts an identity in force, or ends the one that is.
pub fn sign_in(identity: Option<Identity>) {
    IDENTITIES.with(|memory| {
        let now = transaction::current_subtransaction();
        let identity = identity.map(Rc::new);
        memory.change(|list| match list.last_mut() {
            Some((owner, in_force)) if *owner == now => *in_force = identity,
            None if identity.is_none() => {}
            _ => list.push((now, identity)),
        });
    });
}

/// Makes the next use check the identity again, since this transaction itself changes keys.
pub fn doubt() {
    IDENTITIES.with(|memory| {
        memory.change(|list| {
            for identity in list.iter_mut().filter_map(|(_, identity)| identity.as_mut()) {
                *identity = Rc::new(Identity { found_at: u64::MAX, ..(**identity).clone() });
            }
        });
    });
}

pub fn forget() {
    IDENTITIES.with(|memory| drop(memory.take()));
}

/// Called when a savepoint is released: identities that were put in force since then stay.
pub fn released(ended: SubTransactionId, parent: SubTransactionId) {
    IDENTITIES.with(|memory| {
        memory.released(ended, parent);
        // If several identities belong to one level now, the last is in force.
        memory.change(|list| {
            let Some((last, _)) = list.last() else { return };
            let last = *last;
            let first = list.iter().position(|(owner, _)| *owner == last).unwrap_or(0);
            list.drain(first..list.len() - 1);
        });
    });
}

pub fn rolled_back(ended: SubTransactionId) {
    IDENTITIES.with(|memory| memory.rolled_back(ended));
}

fn current_tenant(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.map(|identity| datum::bytes(&identity.tenant)))
}

fn current_tenant_id(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.map(|identity| datum::uuid(&identity.tenant_id)))
}

fn current_keyspace(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.map(|identity| datum::bytes(&identity.keyspace)))
}

fn current_key(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.and_then(|identity| identity.key.as_ref().map(|key| datum::uuid(&key.id))))
}

fn current_environment(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.and_then(|identity| identity.environment().map(datum::bytes)))
}

fn current_owner(_: &Call) -> Result<Option<Datum>> {
    Ok(current()?.and_then(|identity| identity.owner.as_deref().map(datum::bytes)))
}

/// Whether the identity holds a scope, or meets an expression of scopes. False without an identity,
/// and for null.
fn has_scope(call: &Call) -> Result<Option<Datum>> {
    const NAME: &str = "scope";
    let required = match call.bytes(0, needs::MOST) {
        None => return Ok(Some(Datum::from(false))),
        Some(Bytes::TooLong) => Err(format!("is longer than {} bytes", needs::MOST)),
        Some(Bytes::Read(text)) if needs::is_plain(text) => {
            let holds = current()?.is_some_and(|identity| identity.held(|held| held.covers(text)));
            return Ok(Some(Datum::from(holds)));
        }
        Some(Bytes::Read(text)) => needs::read(text),
    };
    let required =
        required.map_err(|rule| Error::argument(NAME, rule).hint(needs::EXPRESSION_HINT))?;
    let holds = current()?.is_some_and(|identity| identity.holds(&required));
    Ok(Some(Datum::from(holds)))
}

/// Watches for statements that have a call of `require_identity`. Without an identity they fail when
/// they begin, even if they read no row. To be called once, when the library is loaded.
pub fn watch() {
    function_start::watch(Watched {
        schema: c"keysmith",
        name: c"require_identity",
        then: must_be_signed_in,
    });
}

/// The identity in force, which must be there.
pub fn required() -> Result<Rc<Identity>> {
    current()?.ok_or_else(|| {
        Error::new(Code::IdentityOver, "the transaction has no identity")
            .hint("Authenticate in the same transaction, in a statement before this one.")
    })
}

fn must_be_signed_in() -> Result<()> {
    required().map(|_| ())
}

fn require_identity(_: &Call) -> Result<Option<Datum>> {
    must_be_signed_in()?;
    Ok(Some(Datum::from(true)))
}

fn sign_out_at_will(_: &Call) -> Result<Option<Datum>> {
    must_be_free()?;
    sign_in(None);
    Ok(None)
}
