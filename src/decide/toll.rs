//! What an otherwise good request is charged: calls of rate limits, then credits.

use super::{credits, limits};
use crate::catalog::Catalog;
use crate::catalog::policy::{Policy, Route};
use crate::limit::{self, Outcome};
use credits::{Charge, Intent};
use keysmith_core::policy::verdict::Reason;
use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};

/// What a request asks for.
pub struct Toll<'a> {
    /// How many calls it counts for; none for one that is free.
    pub weight: u32,
    /// How many credits it costs.
    pub spend: i64,
    pub route: Option<&'a Route>,
}

impl Default for Toll<'_> {
    fn default() -> Self {
        Toll { weight: 1, spend: 0, route: None }
    }
}

/// Who is charged, as far as the rows of a key and its tenant tell.
pub struct Account<'a> {
    pub keyspace: &'a [u8],
    pub environment: &'a [u8],
    /// The first of the key's line: successors share its limits and credits.
    pub key: [u8; 16],
    pub tenant: [u8; 16],
    /// The key in whose place it spends credits, if it was given by one that has its own.
    pub purse: Option<[u8; 16]>,
    /// As they are stored.
    pub limits: Option<&'a [u8]>,
    pub shared_limits: Option<&'a [u8]>,
    pub tenants_limits: Option<&'a [u8]>,
}

/// Where a request has left its key.
#[derive(Default)]
pub struct Standing<'a> {
    /// The limit that refuses, or else is the nearest to do so, and the calls in it.
    pub limit: Option<(&'a [u8], u32)>,
    /// In microseconds.
    pub retry_after: Option<i64>,
    pub credits_remaining: Option<i64>,
}

impl Toll<'_> {
    /// Charges the request in full, or not at all.
    #[inline]
    pub fn collect<'a>(
        &'a self,
        catalog: &Catalog,
        policy: &'a Policy,
        account: &'a Account,
    ) -> Result<(Reason, Standing<'a>)> {
        let is_limited = limits::apply(policy, account, self.route);
        if !is_limited && self.spend == 0 {
            return Ok((Reason::Ok, Standing::default()));
        }
        self.charge(catalog, policy, account, is_limited)
    }

    fn charge<'a>(
        &'a self,
        catalog: &Catalog,
        policy: &'a Policy,
        account: &'a Account,
        is_limited: bool,
    ) -> Result<(Reason, Standing<'a>)> {
        let mut standing = Standing::default();
        let mut claims = Vec::new();
        if is_limited {
            let Some(found) = limits::claims(policy, account, self.route) else {
                return Ok((Reason::LimitsUnavailable, standing));
            };
            claims = found;
            let (reason, after) = told(limit::take(&claims, self.weight));
            if reason != Reason::Ok {
                return Ok((reason, after));
            }
            standing = after;
        }
        let reason = match credits::charge(catalog, policy, account, self.spend, Intent::Spend)? {
            Charge::Nothing => Reason::Ok,
            Charge::Spent { left } => {
                standing.credits_remaining = Some(left);
                Reason::Ok
            }
            Charge::Exhausted { retry_after, .. } => {
                standing.retry_after = retry_after;
                Reason::CreditsExhausted
            }
            Charge::Unwritable | Charge::Held => Reason::CreditsUnavailable,
        };
        if reason != Reason::Ok && !claims.is_empty() {
            limit::give_back(&claims, self.weight);
            if let Some((_, remaining)) = &mut standing.limit {
                *remaining = remaining.saturating_add(self.weight);
            }
        }
        Ok((reason, standing))
    }
}

/// An outcome in a verdict's terms.
pub fn told(outcome: Outcome) -> (Reason, Standing) {
    let standing = |name, remaining, retry_after| Standing {
        limit: Some((name, remaining)),
        retry_after,
        credits_remaining: None,
    };
    match outcome {
        Outcome::Passed { name, remaining } => (Reason::Ok, standing(name, remaining, None)),
        Outcome::Refused { name, remaining, retry_after } => {
            let wait = retry_after.map(|wait| i64::try_from(wait).unwrap_or(i64::MAX));
            (Reason::RateLimited, standing(name, remaining, wait))
        }
        Outcome::Unavailable => (Reason::LimitsUnavailable, Standing::default()),
    }
}

/// The argument `spend`.
pub fn spend(call: &Call, n: usize) -> Result<i64> {
    const NAME: &str = "spend";
    match call.bigint(n) {
        None => Err(must_not_be_null(NAME)),
        Some(spend) if spend < 0 => Err(Error::argument(NAME, "must not be negative")),
        Some(spend) => Ok(spend),
    }
}

/// The argument `weight`, where null leaves it to the route.
pub fn weight(call: &Call, n: usize) -> Result<Option<u32>> {
    let weight = call.integer(n).map(u32::try_from).transpose();
    weight.map_err(|_| Error::argument("weight", "must not be negative"))
}

pub fn required_weight(call: &Call, n: usize) -> Result<u32> {
    weight(call, n)?.ok_or_else(|| must_not_be_null("weight"))
}
