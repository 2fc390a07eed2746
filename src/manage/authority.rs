//! Checks that the caller may manage something, and then runs the act as the extension's owner.
//!
//! EXECUTE says who may call a function. `keysmith_private.access` says how far the caller reaches:
//! administrators reach everything, issuers some tenants. If the transaction acts for a key, that key
//! must allow the act too, and the caller reaches no other tenant.
//!
//! Only the extension's owner may use the tables, so the act runs with the owner's rights. The search
//! path holds only PostgreSQL's own objects then.

use super::bounds::Bounds;
use super::level::{Level, Needs};
use super::roles;
use crate::audit::Actor;
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, columns};
use crate::decide::needs;
use crate::identity::{self, Identity};
use keysmith_core::policy::verdict::{Answer, Reason};
use pg::error::{Code, Error, Result};
use pg::scan::{ScanKey, Snapshot};
use pg::settings::{lock_timeout, set_for_now};
use pg::spi::Param;
use pg::{role, text, transaction};
use pgrx::pg_sys::Oid;
use std::ffi::CStr;
use std::rc::Rc;

/// The role that called, and the key that it acts for.
pub struct Caller {
    pub actor: Actor,
    /// The key that the transaction acts for.
    pub key: Option<Rc<Identity>>,
    /// The bounds of what that key may give.
    pub bounds: Option<Bounds>,
    reach: Reach,
}

enum Reach {
    Everything,
    Tenants(Vec<[u8; 16]>),
    /// The tenant that is signed in, but no key is signed in.
    OfIdentity,
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
        bound_waits();
        body(caller)
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
    let mut caller = Caller::of(&catalog, needs)?;
    catalog.as_owner(|| {
        if let Some(key) = &caller.key {
            caller.bounds = Some(Bounds::of(key)?);
        }
        body(&caller)
    })
}

impl Caller {
    fn of(catalog: &Catalog, needs: Needs) -> Result<Caller> {
        let key = identity::current()?;
        let user = role::current();
        let caller = Caller {
            actor: Actor {
                role: text::name_of_role(user),
                session_role: text::name_of_role(role::of_session()),
                key: key.as_ref().map(|key| key.key_id),
            },
            reach: Reach::of(catalog, user, needs, key.as_deref()),
            key,
            bounds: None,
        };
        caller.check(needs)?;
        Ok(caller)
    }

    fn check(&self, needs: Needs) -> Result<()> {
        let reaches_something = match &self.reach {
            Reach::Everything => true,
            Reach::Tenants(tenants) => !tenants.is_empty(),
            Reach::OfIdentity => false,
        };
        match (needs, &self.key) {
            (Needs::Nothing, _) => Ok(()),
            (Needs::Admin, Some(_)) => {
                Err(not_allowed("a transaction that acts for a key can't administer")
                    .hint("End its identity with keysmith.sign_out() first."))
            }
            (Needs::Oversight, Some(_)) => Err(not_allowed(
                "a transaction that acts for a key can't see what is not its tenant's",
            )
            .hint("End its identity with keysmith.sign_out() first.")),
            (Needs::Admin | Needs::Oversight, None) if matches!(self.reach, Reach::Everything) => {
                Ok(())
            }
            (Needs::Keys | Needs::Sight, None) if reaches_something => Ok(()),
            (Needs::Sight, Some(_)) if reaches_something => Ok(()),
            (Needs::Keys, Some(key)) if reaches_something => manages(key),
            (Needs::Keys | Needs::Sight, None) if matches!(self.reach, Reach::OfIdentity) => {
                let role = &self.actor.role;
                Err(not_allowed(format!(
                    "no tenant is signed in, and role {role:?} issues keys only for that tenant"
                ))
                .hint(
                    "Sign in with a key of the tenant first, in the same transaction: by \
                     keysmith.authenticate, or by keysmith.verify with sign_in => true.",
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
            Reach::OfIdentity => Some(&[]),
        })
    }

    /// Whether the caller reaches keys of an environment.
    pub fn reaches_environment(&self, environment: &[u8]) -> bool {
        self.key.as_deref().is_none_or(|key| *key.environment == *environment)
    }

    /// The environment that the caller reaches, as a parameter; null for all.
    pub fn environment(&self) -> Param<'_> {
        Param::server_text(self.key.as_deref().map(|key| &*key.environment))
    }

    /// Checks that the key that the transaction acts for manages keys. Without a key there is nothing
    /// to check.
    pub fn must_manage(&self) -> Result<()> {
        self.key.as_deref().map_or(Ok(()), manages)
    }

    pub fn administers(&self) -> bool {
        self.key.is_none() && matches!(self.reach, Reach::Everything)
    }

    /// Whether the caller reaches a tenant.
    pub fn reaches(&self, tenant_id: &[u8; 16]) -> bool {
        match &self.reach {
            Reach::Everything => true,
            Reach::Tenants(tenants) => tenants.contains(tenant_id),
            Reach::OfIdentity => false,
        }
    }
}

impl Reach {
    fn of(catalog: &Catalog, user: Oid, needs: Needs, key: Option<&Identity>) -> Reach {
        use columns::access as column;
        let of_key = key.map(|key| key.tenant_id);
        let everything = of_key.map_or(Reach::Everything, |tenant| Reach::Tenants(vec![tenant]));
        if role::has_privileges(user, catalog.owner()) {
            return everything;
        }
        let snapshot = Snapshot::now();
        let access = catalog.tables.access.open();
        let (mut tenants, mut is_for_identity) = (Vec::new(), false);
        for of_user in roles::of(user) {
            let mut scan = access.scan(&snapshot, [ScanKey::oid(column::role, of_user)]);
            while let Some(row) = scan.next() {
                let level = row.bytes(column::level).and_then(Level::named);
                match level.filter(|level| level.allows(needs)) {
                    None => {}
                    // An issuer without a tenant is one for the tenant of the key.
                    Some(Level::Issuer) => {
                        let own = row.uuid(column::tenant_id);
                        is_for_identity |= own.is_none();
                        let tenant = own.or(of_key);
                        let is_within = of_key.is_none() || tenant == of_key;
                        tenants.extend(tenant.filter(|_| is_within));
                    }
                    Some(_) => return everything,
                }
            }
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
    /// key's environment.
    pub environment: Option<Box<[u8]>>,
}

pub fn sight() -> Result<Sight> {
    let catalog = Catalog::open()?;
    let key = identity::current()?;
    let tenants = match Reach::of(&catalog, role::current(), Needs::Sight, key.as_deref()) {
        Reach::Everything => None,
        Reach::Tenants(tenants) => Some(tenants),
        Reach::OfIdentity => Some(Vec::new()),
    };
    Ok(Sight { tenants, environment: key.map(|key| key.environment.clone()) })
}

/// Checks that a key manages the keys of its tenant, as `managed_by` of its keyspace says.
fn manages(key: &Identity) -> Result<()> {
    let policy = &key.policy;
    let reason = match policy.managed_by.as_deref() {
        None => return Err(not_allowed("the keys of this keyspace do not manage keys")),
        Some(_) if !key.is_secret => Reason::KindNotAllowed,
        Some(b"any_secret") => return Ok(()),
        Some(scope) if needs::read(scope).is_ok_and(|scope| key.holds(&scope)) => return Ok(()),
        Some(_) => Reason::InsufficientScope,
    };
    Err(refused(policy, reason))
}

/// A refusal with the keyspace's own status, code and message, as in a verdict.
fn refused(policy: &Policy, reason: Reason) -> Error {
    let answer: Answer = reason.answer();
    let wording = policy.wording(answer);
    let own = |text: Option<&[u8]>, usual: &str| {
        text.and_then(text::from_server).unwrap_or_else(|| usual.into())
    };
    let code = own(wording.and_then(|wording| wording.code.as_deref()), answer.code());
    let message = own(wording.and_then(|wording| wording.message.as_deref()), answer.message());
    let status = wording.and_then(|wording| wording.status).unwrap_or(answer.status());
    let detail = serde_json::json!({ "status": status, "code": code, "reason": reason.name() });
    not_allowed(message).detail(detail.to_string())
}

pub fn not_allowed(message: impl Into<String>) -> Error {
    Error::new(Code::NotAllowed, message)
}
