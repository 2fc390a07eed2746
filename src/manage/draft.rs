//! The draft of a new key: its properties before it is stored.

use super::authority::Caller;
use super::credits::{self, Refill};
use super::delegation;
use super::idempotency::Idempotency;
use super::json;
use super::key;
use super::limits;
use super::metadata;
use super::tenant::Tenant;
use crate::catalog::policy::{EmptyScopes, Policy};
use keysmith_core::policy::rules::Kind;
use pg::call::Call;
use pg::clock;
use pg::error::{Error, Result};
use pg::jsonb::Jsonb;
use pg::text::lossy;
use serde_json::{Value, json};

/// The properties of a new key.
#[derive(Default)]
pub struct Draft<'a> {
    pub tenant: String,
    pub keyspace: String,
    pub label: Option<String>,
    pub environment: Option<String>,
    pub kind: String,
    pub scopes: Vec<String>,
    pub role: Option<String>,
    pub owner: Option<String>,
    /// Networks; an empty list allows all.
    pub allowlist: Vec<String>,
    pub expires_at: Option<i64>,
    /// Whether the caller asked for a key that does not expire.
    pub is_endless: bool,
    pub metadata: Option<Jsonb<'a>>,
    /// In their stored form.
    pub limits: Option<String>,
    /// Whether the caller asked for a key without limits.
    pub is_unlimited: bool,
    pub credits: Option<i64>,
    pub refill: Option<Refill>,
    pub disabled: bool,
    pub idempotency: Idempotency,
}

impl<'a> Draft<'a> {
    /// Reads the tenant, which comes first, the arguments from the label on, and the last ones from
    /// the refill on. `more` are the others.
    pub fn read(call: &'a Call, label: usize, refill: usize, more: Value) -> Result<Draft<'a>> {
        let mut draft = Draft {
            tenant: call.required_text(0, "tenant")?,
            label: call.text(label, "label")?,
            environment: call.text(label + 1, "environment")?,
            kind: kind(call.required_text(label + 2, "kind")?)?,
            scopes: key::distinct(call.strings(label + 3, "scopes")?),
            role: call.text(label + 4, "role")?,
            owner: call.text(label + 5, "owner")?,
            allowlist: key::allowlist(call, label + 6)?,
            expires_at: key::expiry(call.timestamp(label + 7))?,
            is_endless: call.timestamp(label + 7) == Some(key::INFINITY),
            limits: limits::given(call, label + 8)?,
            credits: credits(call, label + 9)?,
            metadata: metadata::argument(call, label + 10)?,
            keyspace: call.required_text(label + 11, "keyspace")?,
            refill: json::argument(call, refill, "refill")?,
            disabled: call.boolean(refill + 1, "disabled")?,
            idempotency: Idempotency::default(),
            is_unlimited: false,
        };
        draft.is_unlimited = call.datum(label + 8).is_some() && draft.limits.is_none();
        draft.idempotency = Idempotency::read(call, refill + 2, || draft.arguments(more))?;
        Ok(draft)
    }

    /// The arguments that a repeated call must give again.
    fn arguments(&self, more: Value) -> Value {
        json!([
            self.label,
            self.environment,
            self.kind,
            self.scopes,
            self.role,
            self.owner,
            self.allowlist,
            self.expires_at,
            self.is_endless,
            self.metadata.and_then(|metadata| metadata.text()),
            self.limits,
            self.is_unlimited,
            self.credits,
            self.refill,
            self.disabled,
            more,
        ])
    }

    /// Checks what needs the keyspace and the tenant, and fills in defaults.
    pub fn settle(&mut self, caller: &Caller, policy: &Policy, tenant: &Tenant) -> Result<String> {
        let is_open = self.expires_at.is_none();
        if is_open && !self.is_endless {
            self.expires_at = policy.default_lifetime.map(|length| clock::now() + length);
        }
        fill_in(caller, policy, self, is_open)?;
        self.fill_in_allowance(caller, policy)?;
        key::check_label(policy, self.label.as_deref())?;
        key::check_key_grants(policy, &self.scopes)?;
        delegation::check_named(caller, &self.scopes)?;
        key::check_role(policy, self.role.as_deref(), &self.keyspace)?;
        key::check_owner(&tenant.id, self.owner.as_deref())?;
        fill_in_defaults(policy, &mut self.scopes);
        let environment = environment(policy, &self.kind, self.environment.as_deref())?;
        if let Some(delegator) = caller.identity.as_deref() {
            delegation::check_environment(delegator, environment.as_bytes())?;
        }
        Ok(environment)
    }

    /// The limits and credits that the keyspace gives to new keys. A key gives no credits: it would give
    /// them to itself.
    fn fill_in_allowance(&mut self, caller: &Caller, policy: &Policy) -> Result<()> {
        if self.limits.is_none() && !self.is_unlimited {
            self.limits.clone_from(&policy.key_limits);
        }
        if self.credits.is_some() || self.refill.is_some() {
            credits::must_administer(caller)?;
        } else if caller.bounds.is_none() {
            self.credits = policy.key_credits;
        }
        Ok(())
    }

    /// Checks that the tenant's plan has what the key uses.
    pub fn check_plan(&self, policy: &Policy, tenant: &Tenant) -> Result<()> {
        tenant.check_feature(policy, "allowlist", !self.allowlist.is_empty())?;
        tenant.check_feature(policy, "expires_at", self.expires_at.is_some())?;
        tenant.check_feature(policy, "limits", self.limits.is_some())?;
        tenant.check_feature(policy, "publishable", self.kind == "publishable")
    }
}

fn credits(call: &Call, n: usize) -> Result<Option<i64>> {
    let balance = call.bigint(n).map(credits::balance).transpose();
    balance.map_err(|rule| Error::argument("credits", rule))
}

/// A key without scopes gets the keyspace's defaults, where it says so.
pub fn fill_in_defaults(policy: &Policy, scopes: &mut Vec<String>) {
    if scopes.is_empty() && policy.empty_scopes == EmptyScopes::Defaults {
        let text = |scope: &[u8]| String::from_utf8_lossy(scope).into_owned();
        scopes.extend(policy.default_scopes.iter().map(|scope| text(scope)));
    }
}

pub fn kind(kind: String) -> Result<String> {
    match Kind::parse(kind.as_bytes()) {
        Some(_) => Ok(kind),
        None => Err(Error::argument("kind", "must be secret or publishable")),
    }
}

/// The environment that was asked for; otherwise `live`, or the only one that there is.
pub fn environment(policy: &Policy, kind: &str, asked: Option<&str>) -> Result<String> {
    let mut known = policy.prefixes.iter().filter(|known| known.kind == kind);
    let wanted = asked.unwrap_or(key::USUAL_ENVIRONMENT);
    if known.clone().any(|known| known.environment == wanted) {
        return Ok(wanted.into());
    }
    match (asked, known.next(), known.next()) {
        (None, Some(only), None) => Ok(only.environment.clone()),
        _ => Err(key::no_prefix(kind, wanted)),
    }
}

/// Fills in what the draft leaves open from the key or person that makes it, the delegator. So the new key
/// follows when the delegator's owner gets a lesser role or is removed. A key whose expiry was left
/// open ends with the delegator at the latest.
fn fill_in(caller: &Caller, policy: &Policy, draft: &mut Draft, is_open: bool) -> Result<()> {
    let Some(delegator) = caller.identity.as_deref() else { return Ok(()) };
    let text = |text: &Option<Box<[u8]>>| text.as_deref().map(lossy);
    if draft.environment.is_none() {
        draft.environment = delegator.environment().map(lossy);
    }
    if draft.owner.is_none() {
        draft.owner = text(&delegator.owner);
    }
    if draft.role.is_none() {
        draft.role = text(&delegator.roles[0]);
    }
    if draft.scopes.is_empty() {
        draft.scopes = match policy.empty_scopes {
            EmptyScopes::All => delegator.scopes.iter().map(|scope| lossy(scope)).collect(),
            EmptyScopes::Defaults => delegator.held(|held| {
                let held = held.bounded(None);
                let defaults = policy.default_scopes.iter();
                defaults.filter(|scope| held.covers(scope)).map(|scope| lossy(scope)).collect()
            }),
            EmptyScopes::None => Vec::new(),
        };
    }
    let Some(bounds) = &caller.bounds else { return Ok(()) };
    // This needs no feature of the plan: the delegator has it already.
    if draft.allowlist.is_empty()
        && let Some(networks) = &bounds.allowlist
    {
        draft.allowlist = networks.iter().map(|network| network.to_string()).collect();
    }
    if is_open {
        draft.expires_at = [draft.expires_at, bounds.expires_at].into_iter().flatten().min();
    }
    Ok(())
}
