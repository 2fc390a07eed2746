//! Checks that the caller may manage something, and then runs the act as the extension's owner.
//!
//! EXECUTE says who may call a function. `keysmith_private.access` says how far the caller reaches:
//! administrators reach everything, issuers some tenants, hosts some tenants or keyspaces. If the
//! transaction acts for a key or a person, these must allow the act too, and the caller reaches no
//! other tenant.
//!
//! Only the extension's owner may use the tables, so the act runs with the owner's rights. The search
//! path holds only PostgreSQL's own objects then.

use super::bounds::Bounds;
use super::level::{Level, Needs};
use crate::audit::Actor;
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, access, columns};
use crate::decide::needs;
use crate::identity::{self, Identity};
use keysmith_core::policy::verdict::Reason;
use pg::error::{Code, Error, Result};
use pg::settings::{lock_timeout, set_for_now};
use pg::spi::Param;
use pg::{role, text, transaction};
use pgrx::pg_sys::Oid;
use std::ffi::CStr;
use std::rc::Rc;

/// The role that called, and the key or person that it acts for.
pub struct Caller {
    pub actor: Actor,
    /// The key or person that the transaction acts for.
    pub identity: Option<Rc<Identity>>,
    /// The bounds of what that key may give. A person has no bounds besides scopes.
    pub bounds: Option<Bounds>,
    reach: Reach,
}

enum Reach {
    Everything,
    Tenants(Vec<[u8; 16]>),
    /// The tenant that is signed in, but nobody is signed in.
    OfIdentity,
    /// What a host makes tenants and persons in.
    Hosted(Vec<Hosted>),
}

/// A part of what a host reaches.
enum Hosted {
    Everything,
    Keyspace(String),
    Tenant([u8; 16]),
}

/// Runs an act of management. A subscriber refuses it: its keys are managed on the publisher.
pub fn act<T>(needs: Needs, body: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    act_here(needs, |caller| {
        Catalog::open()?.must_not_be_subscriber()?;
        body(caller)
    })
}

/// Runs an act that a subscriber allows, too. Its commit is flushed whatever `synchronous_commit`
/// says: a revocation that was acknowledged, and a key that was returned, must survive a crash. Its
/// waits for other transactions are bounded.
pub fn act_here<T>(needs: Needs, body: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    let result = look(needs, |caller| {
        caller.must_be_the_sessions_own()?;
        caller.must_not_act_by_token()?;
        bound_waits();
        let done = body(caller)?;
        identity::must_still_act()?;
        Ok(done)
    });
    identity::doubt();
    transaction::force_sync_commit();
    result
}

/// The longest that an act waits for a lock, unless the session has a `lock_timeout`.
const LONGEST_WAIT: &CStr = c"10s";

fn bound_waits() {
    if lock_timeout() == 0 {
        set_for_now(c"lock_timeout", LONGEST_WAIT);
    }
}

/// Runs something that only reads.
pub fn look<T>(needs: Needs, body: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    let catalog = Catalog::open()?;
    let mut caller = Caller::of(&catalog, needs, identity::current()?)?;
    catalog.as_owner(|| {
        if let Some(key) = caller.identity.as_ref().and_then(|identity| identity.key.as_ref()) {
            caller.bounds = Some(Bounds::of(&key.id)?);
        }
        body(&caller)
    })
}

/// Whether the caller's role has access that allows something for the identity in force, which may
/// still be refused.
pub fn may(needs: Needs) -> Result<bool> {
    let (catalog, identity) = (Catalog::open()?, identity::current()?);
    Ok(match Reach::of(&catalog, role::current(), needs, identity.as_deref()) {
        Reach::Everything => true,
        Reach::Tenants(tenants) => !tenants.is_empty(),
        Reach::OfIdentity | Reach::Hosted(_) => false,
    })
}

/// Runs `act_as`. It replaces a person, as a decision replaces a key. It refuses a transaction
/// that began with a key: that must not go on with the rights of a person.
pub fn sign_in<T>(needs: Needs, body: impl FnOnce(&Caller) -> Result<T>) -> Result<T> {
    if identity::is_of_key() {
        return Err(
            not_allowed("a transaction that acts for a key can't act as a person").hint(SIGN_OUT)
        );
    }
    let catalog = Catalog::open()?;
    let caller = Caller::of(&catalog, needs, None)?;
    catalog.as_owner(|| body(&caller))
}

impl Caller {
    fn of(catalog: &Catalog, needs: Needs, identity: Option<Rc<Identity>>) -> Result<Caller> {
        let user = role::current();
        let key = identity.as_ref().and_then(|identity| identity.key.as_ref());
        let person = identity.as_ref().and_then(|identity| identity.person());
        let caller = Caller {
            actor: Actor {
                role: text::name_of_role(user),
                session_role: text::name_of_role(role::of_session()),
                key: key.map(|key| key.id),
                member: person.map(text::lossy),
            },
            reach: Reach::of(catalog, user, needs, identity.as_deref()),
            identity,
            bounds: None,
        };
        caller.check(needs)?;
        Ok(caller)
    }

    fn must_be_the_sessions_own(&self) -> Result<()> {
        self.identity.as_ref().map_or(Ok(()), |_| must_be_the_sessions_own())
    }

    /// A token only reads. It can't make or change keys, and gives nothing on.
    pub fn must_not_act_by_token(&self) -> Result<()> {
        let key = self.identity.as_ref().and_then(|identity| identity.key.as_ref());
        if key.is_none_or(|key| key.token.is_none()) {
            return Ok(());
        }
        Err(not_allowed("a token can't make or change keys, and can't give them to others")
            .hint("Authenticate with the key that the token was made from."))
    }

    fn check(&self, needs: Needs) -> Result<()> {
        let reaches_something = match &self.reach {
            Reach::Everything => true,
            Reach::Tenants(tenants) => !tenants.is_empty(),
            Reach::OfIdentity => false,
            Reach::Hosted(parts) => !parts.is_empty(),
        };
        let whom = if self.actor.key.is_some() { "key" } else { "person" };
        match (needs, &self.identity) {
            (Needs::Nothing, _) => Ok(()),
            (Needs::Admin | Needs::Host, Some(_)) => Err(not_allowed(format!(
                "a transaction that acts for a {whom} can't {}",
                if needs == Needs::Admin { "administer" } else { "do what hosts do" }
            ))
            .hint(SIGN_OUT)),
            (Needs::Oversight, Some(_)) => Err(not_allowed(format!(
                "a transaction that acts for a {whom} can't see what is not its tenant's",
            ))
            .hint(SIGN_OUT)),
            (Needs::Admin | Needs::Oversight, None) if matches!(self.reach, Reach::Everything) => {
                Ok(())
            }
            (Needs::Host, None) if reaches_something => Ok(()),
            (Needs::Keys | Needs::Sight, None) if reaches_something => Ok(()),
            (Needs::Sight, Some(_)) if reaches_something => Ok(()),
            (Needs::Keys, Some(identity)) if reaches_something => manages(identity),
            (Needs::Keys | Needs::Sight, None) if matches!(self.reach, Reach::OfIdentity) => {
                let role = &self.actor.role;
                Err(not_allowed(format!(
                    "no tenant is signed in, and role {role:?} issues keys only for that tenant"
                ))
                .hint(
                    "Sign in first, in the same transaction: with a key of the tenant by \
                     keysmith.authenticate, or by keysmith.verify with sign_in => true; or a person \
                     by keysmith.act_as.",
                ))
            }
            _ => Err(not_allowed(format!(
                "role {:?} has no access that allows this",
                self.actor.role
            ))
            .hint(format!("It takes keysmith.grant_access(role, {}).", needs.levels()))),
        }
    }

    /// The tenants that the caller reaches, as a parameter; null for all.
    pub fn tenants(&self) -> Param<'_> {
        Param::uuids(match &self.reach {
            Reach::Everything => None,
            Reach::Tenants(tenants) => Some(tenants),
            Reach::OfIdentity | Reach::Hosted(_) => Some(&[]),
        })
    }

    /// Whether the caller reaches keys of an environment.
    pub fn reaches_environment(&self, environment: &[u8]) -> bool {
        self.only_environment().is_none_or(|own| own == environment)
    }

    /// The environment that the caller reaches, as a parameter; null for all.
    pub fn environment(&self) -> Param<'_> {
        Param::server_text(self.only_environment())
    }

    fn only_environment(&self) -> Option<&[u8]> {
        self.identity.as_deref().and_then(Identity::environment)
    }

    /// Checks that the key or person that the transaction acts for manages keys. Without one there
    /// is nothing to check.
    pub fn must_manage(&self) -> Result<()> {
        self.identity.as_deref().map_or(Ok(()), manages)
    }

    pub fn administers(&self) -> bool {
        self.identity.is_none() && matches!(self.reach, Reach::Everything)
    }

    /// Whether the caller reaches a tenant, which is in this keyspace.
    pub fn reaches(&self, tenant_id: &[u8; 16], keyspace: &str) -> bool {
        match &self.reach {
            Reach::Everything => true,
            Reach::Tenants(tenants) => tenants.contains(tenant_id),
            Reach::OfIdentity => false,
            Reach::Hosted(parts) => parts.iter().any(|part| match part {
                Hosted::Everything => true,
                Hosted::Keyspace(own) => own == keyspace,
                Hosted::Tenant(own) => own == tenant_id,
            }),
        }
    }

    /// Checks that a host reaches all tenants of a keyspace, also those to come.
    pub fn must_host_all_of(&self, keyspace: &str) -> Result<()> {
        if self.hosts(keyspace, false) {
            return Ok(());
        }
        Err(self
            .no_host_of("all tenants", keyspace)
            .hint("It takes the level 'host' without a tenant, for this keyspace or for all."))
    }

    /// Checks that a host may reach a tenant of a keyspace.
    pub fn must_host_some_of(&self, keyspace: &str) -> Result<()> {
        if self.hosts(keyspace, true) {
            return Ok(());
        }
        Err(self
            .no_host_of("tenants", keyspace)
            .hint("It takes the level 'host' for this keyspace, or for all."))
    }

    fn hosts(&self, keyspace: &str, with_tenant: bool) -> bool {
        match &self.reach {
            Reach::Everything => true,
            Reach::Hosted(parts) => parts.iter().any(|part| match part {
                Hosted::Everything => true,
                Hosted::Keyspace(own) => own == keyspace,
                Hosted::Tenant(_) => with_tenant,
            }),
            Reach::Tenants(_) | Reach::OfIdentity => false,
        }
    }

    fn no_host_of(&self, what: &str, keyspace: &str) -> Error {
        let (role, shown) = (&self.actor.role, keyspace.chars().take(63).collect::<String>());
        not_allowed(format!("role {role:?} does not reach {what} of keyspace {shown:?}"))
    }
}

const SIGN_OUT: &str = "End its identity with keysmith.sign_out() first.";

impl Reach {
    fn of(catalog: &Catalog, user: Oid, needs: Needs, identity: Option<&Identity>) -> Reach {
        use columns::access as column;
        let signed_in = identity.map(|identity| identity.tenant_id);
        let everything = signed_in.map_or(Reach::Everything, |tenant| Reach::Tenants(vec![tenant]));
        if role::has_privileges(user, catalog.owner()) {
            return everything;
        }
        let (mut tenants, mut hosted) = (Vec::new(), Vec::new());
        let (mut is_for_identity, mut reaches_all) = (false, false);
        access::each_of(catalog, user, |row| {
            let level = row.bytes(column::level).and_then(Level::named);
            let (own, keyspace) = (row.uuid(column::tenant_id), row.bytes(column::keyspace));
            match level.filter(|level| level.allows(needs)) {
                None => {}
                // An issuer without a tenant is one for the tenant that is signed in.
                Some(Level::Issuer) => {
                    is_for_identity |= own.is_none();
                    let tenant = own.or(signed_in);
                    let is_within = signed_in.is_none() || tenant == signed_in;
                    tenants.extend(tenant.filter(|_| is_within));
                }
                Some(Level::Host) if needs == Needs::Host => {
                    hosted.push(match (own, keyspace) {
                        (Some(tenant), _) => Hosted::Tenant(tenant),
                        (None, Some(keyspace)) => Hosted::Keyspace(text::lossy(keyspace)),
                        (None, None) => Hosted::Everything,
                    });
                }
                // A host manages keys for a person that it has signed in, and not for a key.
                Some(Level::Host) => {
                    is_for_identity = true;
                    let person = identity.filter(|identity| identity.key.is_none());
                    tenants.extend(person.map(|person| person.tenant_id).filter(|tenant| {
                        let is_own = own.is_none_or(|own| own == *tenant);
                        is_own
                            && keyspace.is_none_or(|keyspace| {
                                person.is_some_and(|person| *person.keyspace == *keyspace)
                            })
                    }));
                }
                Some(_) => reaches_all = true,
            }
        });
        if reaches_all {
            return everything;
        }
        if needs == Needs::Host {
            return Reach::Hosted(hosted);
        }
        match tenants.is_empty() && is_for_identity {
            true => Reach::OfIdentity,
            false => Reach::Tenants(tenants),
        }
    }
}

/// The bounds of what the caller may see.
pub struct Sight {
    /// Rows of these tenants; `None` for all tenants.
    pub tenants: Option<Vec<[u8; 16]>>,
    /// Rows of this environment; `None` for all. A transaction that acts for a key sees only the
    /// key's environment; for a person it sees all.
    pub environment: Option<Box<[u8]>>,
}

pub fn sight() -> Result<Sight> {
    let catalog = Catalog::open()?;
    let identity = identity::current()?;
    let tenants = match Reach::of(&catalog, role::current(), Needs::Sight, identity.as_deref()) {
        Reach::Everything => None,
        Reach::Tenants(tenants) => Some(tenants),
        Reach::OfIdentity | Reach::Hosted(_) => Some(Vec::new()),
    };
    let environment = identity.as_deref().and_then(Identity::environment).map(Box::from);
    Ok(Sight { tenants, environment })
}

/// Checks that a key or a person manages the keys of its tenant, as `managed_by` of its keyspace
/// says. `nobody` and `any_secret` are about keys: any person manages then.
fn manages(identity: &Identity) -> Result<()> {
    let policy = &identity.policy;
    let reason = match (policy.managed_by.as_deref(), &identity.key) {
        (None | Some(b"any_secret"), None) => return Ok(()),
        (None, Some(_)) => return Err(not_allowed("the keys of this keyspace do not manage keys")),
        (Some(_), Some(key)) if !key.is_secret => Reason::KindNotAllowed,
        (Some(b"any_secret"), Some(_)) => return Ok(()),
        (Some(scope), _) if needs::read(scope).is_ok_and(|scope| identity.holds(&scope)) => {
            return Ok(());
        }
        (Some(_), _) => Reason::InsufficientScope,
    };
    Err(refused(Code::NotAllowed, policy, reason))
}

/// If a role analyzes a table or refreshes a view, code of its owner runs in that role's transaction.
/// It must not act for the key or person of that transaction.
pub fn must_be_the_sessions_own() -> Result<()> {
    if transaction::is_security_restricted() {
        let message =
            "a security-restricted operation can't act for the key or person that is signed in";
        return Err(not_allowed(message));
    }
    Ok(())
}

/// A refusal with the keyspace's own status, code and message, as in a verdict.
pub fn refused(code: Code, policy: &Policy, reason: Reason) -> Error {
    let answer = policy.answer(reason);
    let wording = policy.wording(answer);
    let own = |text: Option<&[u8]>, usual: &str| {
        text.and_then(text::from_server).unwrap_or_else(|| usual.into())
    };
    let named = own(wording.and_then(|wording| wording.code.as_deref()), answer.code());
    let message = own(wording.and_then(|wording| wording.message.as_deref()), answer.message());
    let status = wording.and_then(|wording| wording.status).unwrap_or(answer.status());
    let detail = serde_json::json!({ "status": status, "code": named, "reason": reason.name() });
    Error::new(code, message).detail(detail.to_string())
}

pub fn not_allowed(message: impl Into<String>) -> Error {
    Error::new(Code::NotAllowed, message)
}
