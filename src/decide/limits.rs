//! The rate limits of a request: those of the key, of the keys that delegated to it, of its tenant
//! and of its keyspace. A route's limits are added, and replace limits of the same name.

use crate::catalog::policy::{Policy, Route};
use crate::limit::{self, Claim};
use crate::verdict::Account;
use keysmith_core::buckets::{NOBODY, Owner};
use keysmith_core::policy::limits::{Limit, Shared, stored, stored_shared};
use keysmith_core::siphash::SipHasher;
use pg::server;

/// Whether the request has any rate limits.
#[inline]
pub fn apply(policy: &Policy, account: &Account, route: Option<&Route>) -> bool {
    account.limits.is_some()
        || account.shared_limits.is_some()
        || account.tenants_limits.is_some()
        || policy.limits.is_some()
        || route.is_some_and(|route| route.limits.is_some())
}

/// The holder of a limit. All calls of a holder are counted together.
#[derive(Clone, Copy)]
enum Holder {
    Key = 1,
    Tenant = 2,
    Keyspace = 3,
    /// The key, on a route.
    Route = 4,
}

/// All rate limits of a request; `None` if they can't be kept: there is no table of buckets, or a
/// stored limit can't be parsed.
pub fn claims<'a>(
    policy: &'a Policy,
    account: &'a Account,
    route: Option<&'a Route>,
) -> Option<Vec<Claim<'a>>> {
    let hasher = limit::hasher()?;
    let mut owner = hasher.clone();
    owner.fixed(&account.tenant);
    // A hash of 64 bits is practically never NOBODY. If it is, the next number is used.
    let owner = (owner.finish() as Owner).max(NOBODY + 1);
    let base = base(hasher, account);
    let on_route = match route.and_then(|route| route.limits.as_deref()) {
        Some(text) => stored(text).collect::<Option<Vec<Limit>>>()?,
        None => Vec::new(),
    };
    let shared = match account.shared_limits {
        Some(text) => stored_shared(text).collect::<Option<Vec<Shared>>>()?,
        None => Vec::new(),
    };
    let is_on_route = |name: &[u8]| on_route.iter().any(|limit| limit.name == name);
    let mut claims = Vec::with_capacity(8);
    for (holder, text) in [
        (Holder::Key, account.limits),
        (Holder::Tenant, account.tenants_limits),
        (Holder::Keyspace, policy.limits.as_deref()),
    ] {
        let Some(text) = text else { continue };
        let mut hasher = base.clone();
        hasher.fixed(&[holder as u8]);
        match holder {
            Holder::Key | Holder::Route => hasher.fixed(&account.key),
            Holder::Tenant => hasher.fixed(&account.tenant),
            Holder::Keyspace => &mut hasher,
        };
        let owner = if matches!(holder, Holder::Keyspace) { NOBODY } else { owner };
        for limit in stored(text) {
            let limit = limit?;
            if !is_on_route(limit.name) {
                claims.push(claim(&hasher, limit, owner));
            }
        }
    }
    for Shared { key, limit } in &shared {
        if !is_on_route(limit.name) {
            let mut hasher = base.clone();
            hasher.fixed(&[Holder::Key as u8]).fixed(key);
            claims.push(claim(&hasher, *limit, owner));
        }
    }
    if let Some(route) = route {
        let of_key = |key: &[u8; 16], limit| {
            let mut hasher = base.clone();
            hasher.fixed(&[Holder::Route as u8]).fixed(key).sized(&route.name);
            claim(&hasher, limit, owner)
        };
        // A route's limit that replaces a shared limit is shared likewise.
        for limit in &on_route {
            let sharers = shared.iter().filter(|shared| shared.limit.name == limit.name);
            let known = claims.len();
            claims.extend(sharers.map(|shared| of_key(&shared.key, *limit)));
            if claims.len() == known {
                claims.push(of_key(&account.key, *limit));
            }
        }
    }
    Some(claims)
}

fn base(mut hasher: SipHasher, account: &Account) -> SipHasher {
    let database = server::my_database().to_u32();
    hasher.fixed(&database.to_ne_bytes()).sized(account.keyspace).sized(account.environment);
    hasher
}

fn claim<'a>(hasher: &SipHasher, limit: Limit<'a>, owner: Owner) -> Claim<'a> {
    let mut hasher = hasher.clone();
    hasher.fixed(limit.name);
    Claim { name: limit.name, rate: limit.rate, bucket: hasher.finish(), owner }
}
