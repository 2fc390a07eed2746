//! `derive_token` and `jwks`: tokens that are made from keys, and the public keys by which others
//! check them.
//!
//! Nothing is written, so both work on standbys and in transactions that only read. Whoever may
//! decide about keys may call them.

use super::authority::{must_be_the_sessions_own, not_allowed, refused};
use super::delegation::beyond_scopes;
use super::key;
use super::keyspace::check_known;
use super::{json, key::distinct};
use crate::catalog::policy::Policy;
use crate::catalog::{Catalog, access};
use crate::decide::lookup::Reader;
use crate::decide::needs::NeededScopes;
use crate::decide::presented::{Presented, Sought};
use crate::identity::{self, Identity};
use crate::{lag, request_id, signing};
use keysmith_core::policy::allowlist::IpNet;
use keysmith_core::policy::lifetime;
use keysmith_core::policy::name::{PRINCIPAL_RULE, is_principal};
use keysmith_core::policy::rules::{self, Demand};
use keysmith_core::policy::scope::HeldScopes;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::MAX_TOKEN_LEN;
use keysmith_core::token::new::{NewToken, Unfit};
use pg::call::{Call, sql_functions};
use pg::error::{Code, Error, Result};
use pg::result_set::{Cell, ResultSet};
use pg::text::lossy;
use pg::{clock, datum};
use pgrx::pg_sys::Datum;
use serde_json::{Map, Value};

sql_functions! {
    keysmith_derive_token => derive_token;
    keysmith_jwks => jwks;
}

fn derive_token(call: &Call) -> Result<Option<Datum>> {
    let asked = Asked::read(call)?;
    let made = match Presented::argument(call, 0) {
        Presented::Nothing => of_identity(&asked)?,
        presented => of_key(&asked, presented, &call.required_text(6, "keyspace")?)?,
    };
    ResultSet::of(call).put([
        Cell::text(&made.token),
        Cell::uuid(&made.id),
        Cell::timestamp(Some(made.expires_at)),
    ]);
    Ok(None)
}

fn jwks(call: &Call) -> Result<Option<Datum>> {
    let keyspace = call.required_text(0, "keyspace")?;
    access::must_decide(&Catalog::open()?, keyspace.as_bytes())?;
    check_known(&keyspace)?;
    Ok(Some(datum::jsonb(&signing::keys_of(keyspace.as_bytes()).jwks().to_string())))
}

/// A token of a key that is presented. Each use of the token asks whether the key may be used from
/// there, so this does not.
fn of_key(asked: &Asked, presented: Presented, keyspace: &str) -> Result<Made> {
    let keyspace = keyspace.as_bytes();
    let catalog = Catalog::open()?;
    access::must_decide(&catalog, keyspace)?;
    let reader = Reader::new(&catalog);
    let (policy, sought) = reader.sought(keyspace, |_| presented)?;
    if !policy.exists() {
        check_known(&lossy(keyspace))?;
    }
    let now = clock::now();
    let rows = match sought {
        Ok(Sought::Token(_)) | Err(Reason::TokenInvalid) => return Err(token_makes_no_token()),
        Ok(_) if lag::is_behind(&catalog, reader.snapshot(), now) => Err(Reason::ReplicaBehind),
        Ok(sought) => reader.find(sought, keyspace),
        Err(reason) => Err(reason),
    };
    let rows = rows.map_err(|reason| is_refused(&policy, reason))?;
    let own = rows.scopes();
    let bound = rows.tenants_scopes();
    let bound = bound.as_deref();
    let held = rows.held(&policy, &own, bound);
    let expires_at = rows.life(&policy).end();
    let found = rows.found(expires_at, held, None);
    let scopes = &NeededScopes::Nothing;
    let demand = Demand { environment: None, kind: None, scopes, address: None, now };
    match rules::decide(&found, &demand) {
        Reason::Ok => {}
        reason => return Err(is_refused(&policy, reason)),
    }
    let holder = rows.holder(expires_at, keyspace, &own, bound, &[]);
    asked.made(&Maker {
        policy: &policy,
        keyspace,
        key_id: &holder.key_id,
        tenant: holder.tenant.unwrap_or_default(),
        environment: holder.environment,
        expires_at,
        held: &held,
    })
}

/// A token of the key that the transaction acts for.
fn of_identity(asked: &Asked) -> Result<Made> {
    let identity = identity::required()?;
    must_be_the_sessions_own()?;
    let Identity { tenant, keyspace, policy, expires_at, .. } = &*identity;
    let Some(key) = &identity.key else {
        return Err(not_allowed("a person makes no tokens: it takes a key"));
    };
    if key.token.is_some() {
        return Err(token_makes_no_token());
    }
    access::must_decide(&Catalog::open()?, keyspace)?;
    identity.held(|held| {
        asked.made(&Maker {
            policy,
            keyspace,
            key_id: &key.id,
            tenant,
            environment: &key.environment,
            expires_at: *expires_at,
            held,
        })
    })
}

fn token_makes_no_token() -> Error {
    not_allowed("a token makes no tokens: it takes the key that the token was made from")
}

/// The error for a key that is not accepted.
fn is_refused(policy: &Policy, reason: Reason) -> Error {
    refused(Code::IdentityOver, policy, reason)
}

/// What a caller wants of a token.
struct Asked {
    /// In microseconds.
    lifetime: i64,
    scopes: Option<Vec<String>>,
    allowlist: Vec<IpNet>,
    /// Empty for the issuer.
    audience: Vec<String>,
    claims: Map<String, Value>,
}

/// The longest that a token lives, in microseconds.
const LONGEST: i64 = clock::DAY;

const TTL_RULE: &str =
    "must be an interval from 1 second to 24 hours, such as 15 minutes, without months and years";

impl Asked {
    fn read(call: &Call) -> Result<Asked> {
        let ttl = call.interval(1, "ttl")?;
        let lifetime = lifetime::length(ttl.month, ttl.day, ttl.time);
        let scopes = call.array(2).map(|_| call.strings(2, "scopes")).transpose()?;
        let audience = call
            .text(4, "audience")?
            .map_or_else(Vec::new, |text| text.split(' ').map(String::from).collect::<Vec<_>>());
        if !audience.iter().all(|name| is_principal(name)) {
            let rule = format!("must be names with a space between them; each {PRINCIPAL_RULE}");
            return Err(Error::argument("audience", rule));
        }
        Ok(Asked {
            lifetime: lifetime
                .filter(|length| *length <= LONGEST)
                .ok_or_else(|| Error::argument("ttl", TTL_RULE))?,
            scopes: scopes.map(distinct),
            allowlist: key::networks(call, 3)?,
            audience,
            claims: match json::value(call, 5, "claims")? {
                None => Map::new(),
                Some(Value::Object(claims)) => claims,
                Some(_) => return Err(Error::argument("claims", "must be an object or null")),
            },
        })
    }

    fn made(&self, maker: &Maker) -> Result<Made> {
        let keys = signing::keys_of(maker.keyspace);
        let key = keys.newest().ok_or_else(no_secrets)?;
        let now = clock::now();
        let end = now + self.lifetime;
        let id = request_id::next(now);
        if id == [0; 16] {
            return Err(Error::no_entropy(()));
        }
        let effective: Vec<String>;
        let scopes = match &self.scopes {
            Some(scopes) => {
                maker.must_hold(scopes)?;
                scopes
            }
            None => {
                effective = maker.held.effective().iter().copied().map(lossy).collect();
                &effective
            }
        };
        let signed = NewToken {
            issuer: &maker.policy.issuer,
            audience: &self.audience.iter().map(String::as_str).collect::<Vec<_>>(),
            key_id: maker.key_id,
            token_id: &id,
            tenant: &lossy(maker.tenant),
            environment: &lossy(maker.environment),
            scopes: &scopes.iter().map(String::as_str).collect::<Vec<_>>(),
            allowlist: Some(&*self.allowlist).filter(|list| !list.is_empty()),
            issued_at: now,
            expires_at: maker.expires_at.map_or(end, |at| at.min(end)),
            claims: &self.claims,
        }
        .sign(key)
        .map_err(|unfit| maker.unfit(unfit))?;
        Ok(Made { token: signed.token, id, expires_at: signed.expires_at })
    }
}

/// The key that a token is made from.
struct Maker<'a> {
    policy: &'a Policy,
    keyspace: &'a [u8],
    key_id: &'a [u8; 16],
    tenant: &'a [u8],
    environment: &'a [u8],
    expires_at: Option<i64>,
    held: &'a HeldScopes<'a>,
}

impl Maker<'_> {
    fn must_hold(&self, scopes: &[String]) -> Result<()> {
        key::check_known_grants(self.policy, scopes)?;
        match scopes.iter().find(|scope| !self.held.covers(scope.as_bytes())) {
            Some(surplus) => Err(beyond_scopes("the key that gives them", surplus)),
            None => Ok(()),
        }
    }

    fn unfit(&self, unfit: Unfit) -> Error {
        match unfit {
            Unfit::Reserved(name) => Error::argument(
                "claims",
                format!("must not have {name:?}, which the token itself or a standard says"),
            ),
            Unfit::TooDeep => Error::argument("claims", "must be nested at most 32 levels deep"),
            Unfit::TooLong => Error::argument(
                "scopes, allowlist, audience and claims",
                format!("must be shorter: a token has at most {MAX_TOKEN_LEN} bytes"),
            ),
            // The key expires within this second.
            Unfit::NoLife => is_refused(self.policy, Reason::Expired),
        }
    }
}

fn no_secrets() -> Error {
    Error::new(Code::Conflict, "keysmith.signing_key_file is not set, so no token can be signed")
        .hint("See \"Signing secrets\" in SECURITY.md.")
}

struct Made {
    token: String,
    id: [u8; 16],
    expires_at: i64,
}
