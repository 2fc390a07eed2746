//! The rate limits of a request: those of the key, of the keys that delegated to it, of its tenant
//! and of its keyspace. A route's limits are added, and replace limits of the same name.

use crate::catalog::policy::{Policy, Route};
use crate::limit::slots::SlotClaim;
use crate::limit::{self, Claim, Claims};
use crate::verdict::Account;
use keysmith_core::buckets::{self, NOBODY, Owner, crowd_of, of_site};
use keysmith_core::claims::Bound;
use keysmith_core::policy::limits::{
    Limit, Per, Shared, counted_network, site, stored, stored_shared,
};
use keysmith_core::policy::weights::{CALLS, Weights};
use keysmith_core::siphash::SipHasher;
use keysmith_core::slots;
use pg::server;
use std::net::IpAddr;

/// Whether the request has any rate limits.
#[inline]
pub fn apply(policy: &Policy, account: &Account, route: Option<&Route>) -> bool {
    account.limits.is_some()
        || account.shared_limits.is_some()
        || account.tenants_limits.is_some()
        || policy.limits.is_some()
        || route.is_some_and(|route| route.limits.is_some())
}

/// The holder of a limit. All requests of a holder are counted together, unless the limit says
/// otherwise.
#[derive(Clone, Copy)]
enum Holder {
    Key = 1,
    Tenant = 2,
    Keyspace = 3,
    /// The key, on a route.
    Route = 4,
}

/// What a request counts for, and for whom.
pub struct Counted<'a> {
    pub weights: Weights<'a>,
    pub subject: Option<&'a [u8]>,
    pub address: Option<IpAddr>,
    pub route: Option<&'a Route>,
}

/// All rate limits of a request; `None` if they can't be kept: there is no table of buckets, or a
/// stored limit can't be parsed.
pub fn claims<'a>(
    policy: &'a Policy,
    account: &'a Account,
    counted: &Counted<'a>,
) -> Option<Claims<'a>> {
    let hasher = limit::hasher()?;
    let mut owner = hasher.clone();
    owner.fixed(&account.tenant);
    let owner = buckets::owner(owner.finish());
    let claimer = Claimer { account, counted, owner, fresh: hasher.clone() };
    let route = counted.route;
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
    let mut claims = Claims::default();
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
        for limit in stored(text) {
            let limit = limit?;
            if !is_on_route(limit.name) {
                claimer.claim(&mut claims, &hasher, holder, limit);
            }
        }
    }
    for Shared { key, limit } in &shared {
        if !is_on_route(limit.name) {
            let mut hasher = base.clone();
            hasher.fixed(&[Holder::Key as u8]).fixed(key);
            claimer.claim(&mut claims, &hasher, Holder::Key, *limit);
        }
    }
    if let Some(route) = route {
        let mut claim = |key: &[u8; 16], limit: Limit<'a>| {
            let mut hasher = base.clone();
            hasher.fixed(&[Holder::Route as u8]);
            // One that counts others than keys counts those of all keys.
            if matches!(limit.per, None | Some(Per::Key)) {
                hasher.fixed(key);
            }
            hasher.sized(&route.name);
            claimer.claim(&mut claims, &hasher, Holder::Route, limit);
        };
        // A route's limit that replaces a shared limit is shared likewise.
        for limit in &on_route {
            let sharers = shared.iter().filter(|shared| shared.limit.name == limit.name);
            let sharers = sharers.filter(|_| matches!(limit.per, None | Some(Per::Key)));
            let mut sharers = sharers.peekable();
            if sharers.peek().is_none() {
                claim(&account.key, *limit);
            }
            sharers.for_each(|shared| claim(&shared.key, *limit));
        }
    }
    Some(claims)
}

fn base(mut hasher: SipHasher, account: &Account) -> SipHasher {
    let database = server::my_database().to_u32();
    hasher.fixed(&database.to_ne_bytes()).sized(account.keyspace).sized(account.environment);
    hasher
}

/// Finds the buckets of a request.
struct Claimer<'a, 'c> {
    account: &'c Account<'a>,
    counted: &'c Counted<'a>,
    /// The owner of the tenant's buckets.
    owner: Owner,
    /// A hash that has just begun.
    fresh: SipHasher,
}

impl Claimer<'_, '_> {
    /// Adds the claim on the limit of a holder, whose hash is `hasher`.
    fn claim<'l>(
        &self,
        claims: &mut Claims<'l>,
        hasher: &SipHasher,
        holder: Holder,
        limit: Limit<'l>,
    ) {
        let mut hasher = hasher.clone();
        hasher.fixed(limit.name);
        // A name has no line's end. A limit of another unit begins with a full bucket.
        if limit.unit != CALLS {
            hasher.fixed(b"\n").sized(limit.unit);
        }
        let Limit { name, bound, unit, per } = limit;
        let weight = self.counted.weights.of(unit);
        let owner = self.separate(&mut hasher, holder, per);
        let bucket = hasher.finish();
        match bound {
            Bound::Rate(rate) => {
                claims.rates.push(Claim { name, unit, rate, weight, bucket, owner, mark: None })
            }
            Bound::Concurrent(limit) => {
                let bucket = slots::bucket(bucket);
                claims.slots.push(SlotClaim { name, limit, weight, bucket });
            }
        }
    }

    /// Adds to the name of a bucket what the limit counts separately. Returns the bucket's owner.
    /// Subjects and members are a tenant's own: other tenants have others of the same name.
    fn separate(&self, hasher: &mut SipHasher, holder: Holder, per: Option<Per>) -> Owner {
        let Some(per) = per else {
            return if matches!(holder, Holder::Keyspace) { NOBODY } else { self.owner };
        };
        // A holder's own limit counts nothing smaller than the holder.
        let is_holder = match per {
            Per::Key => matches!(holder, Holder::Key | Holder::Route),
            Per::Tenant => matches!(holder, Holder::Key | Holder::Tenant),
            // A key without an owner may make keys for members. Each would count for itself.
            Per::Member => matches!(holder, Holder::Key),
            Per::Subject | Per::Address => false,
        };
        if is_holder {
            return self.owner;
        }
        hasher.fixed(b"\n").fixed(&[per as u8]);
        if matches!(per, Per::Member | Per::Subject) {
            hasher.fixed(&self.account.tenant);
        }
        let mut add = |name: Option<&[u8]>| {
            hasher.fixed(&[u8::from(name.is_some())]).sized(name.unwrap_or_default());
            crowd_of(self.owner)
        };
        match per {
            Per::Key => hasher.fixed(&self.account.key),
            Per::Tenant => hasher.fixed(&self.account.tenant),
            Per::Member => return add(self.account.member),
            Per::Subject => return add(self.counted.subject),
            Per::Address => {
                let network = self.counted.address.map(counted_network);
                let network = network.as_ref();
                let crowd = add(network.and_then(|(network, length)| network.get(..*length)));
                let site = |address| site(address, self.fresh.clone());
                let owner = of_site(crowd, self.counted.address.map_or(NOBODY, site));
                // Those of other tenants come from the same addresses.
                let is_shared = matches!(holder, Holder::Keyspace | Holder::Route);
                return if is_shared { buckets::shared(owner) } else { owner };
            }
        };
        self.owner
    }
}
