//! Charging a request that all rules let pass: first calls of rate limits, then credits.

use super::{credits, limits};
use crate::catalog::Catalog;
use crate::catalog::policy::{Policy, Route};
use crate::limit::{self, Admission, Taken};
use crate::verdict::{Account, Standing};
use credits::{Asked, Intent, Spending};
use keysmith_core::policy::verdict::Reason;
use keysmith_core::policy::weights::Weights;
use limits::Counted;
use pg::error::Result;
use std::net::IpAddr;

/// The price of a request.
#[derive(Default)]
pub struct Charge<'a> {
    /// What it counts for; 0 of everything for a free request.
    pub weights: Weights<'a>,
    /// For whom the application makes the request.
    pub subject: Option<&'a [u8]>,
    /// Whether `settle` may say what it used, since the application has told its weights.
    pub can_settle: bool,
    /// How many credits it costs.
    pub spend: i64,
    pub route: Option<&'a Route>,
}

/// The request, the key that it came with, and where it comes from.
pub struct Identified<'a> {
    pub key_id: &'a [u8; 16],
    pub request_id: &'a [u8; 16],
    pub address: Option<IpAddr>,
}

impl<'c> Charge<'c> {
    /// What a request from an address counts for in limits.
    pub fn counted(&self, address: Option<IpAddr>) -> Counted<'c> {
        let Charge { weights, subject, route, .. } = *self;
        Counted { weights, subject, address, route }
    }

    /// Charges the request in full, or not at all.
    #[inline(always)]
    pub fn collect<'a>(
        &'a self,
        catalog: &Catalog,
        policy: &'a Policy,
        account: &'a Account,
        request: &Identified,
    ) -> Result<(Reason, Standing<'a>)> {
        let is_limited = limits::apply(policy, account, self.route);
        if !is_limited && self.spend == 0 && !self.can_settle {
            return Ok((Reason::Ok, Standing::default()));
        }
        let counted = is_limited.then(|| self.counted(request.address));
        self.take(catalog, policy, account, request, counted)
    }

    fn take<'a>(
        &'a self,
        catalog: &Catalog,
        policy: &'a Policy,
        account: &'a Account,
        request: &Identified,
        counted: Option<Counted<'a>>,
    ) -> Result<(Reason, Standing<'a>)> {
        let mut standing = Standing::default();
        let mut taken = Taken::default();
        if let Some(counted) = counted {
            let Some(found) = limits::claims(policy, account, &counted) else {
                return Ok((Reason::LimitsUnavailable, standing));
            };
            let (outcome, counted) = limit::take(found);
            taken = counted;
            let (reason, after) = told(outcome);
            if reason != Reason::Ok {
                return Ok((reason, after));
            }
            standing = after;
        }
        let Identified { key_id, request_id, .. } = request;
        let asked = Asked { key_id, request_id, spend: self.spend };
        let reason = match credits::charge(catalog, policy, account, &asked, Intent::Spend)? {
            Spending::Nothing => Reason::Ok,
            Spending::Spent { left } => {
                standing.credits_remaining = Some(left);
                Reason::Ok
            }
            Spending::Exhausted { left, retry_after } => {
                standing.credits_remaining = left;
                standing.retry_after = retry_after;
                Reason::CreditsExhausted
            }
            Spending::Unwritable | Spending::Held => Reason::CreditsUnavailable,
        };
        if reason == Reason::Ok && self.can_settle {
            let is_recorded = policy.usage_log.has(reason);
            let named = taken.rates().iter().filter(|claim| self.weights.has(claim.unit));
            let Account { keyspace, tenant, .. } = account;
            limit::unsettled::remember(request_id, keyspace, tenant, named, is_recorded);
        }
        if reason == Reason::Ok {
            taken.keep();
        } else if let Some(limit) = &mut standing.limit {
            limit.remaining = limit.remaining.saturating_add(limit.weight);
        }
        Ok((reason, standing))
    }
}

/// The outcome of rate limits as a reason and a standing, for the verdict.
pub fn told(outcome: Admission) -> (Reason, Standing) {
    let standing =
        |limit, retry_after| Standing { limit: Some(limit), retry_after, ..Standing::default() };
    match outcome {
        Admission::Passed(limit) => (Reason::Ok, standing(limit, None)),
        Admission::Refused { limit, retry_after } => {
            let wait = retry_after.map(|wait| i64::try_from(wait).unwrap_or(i64::MAX));
            (Reason::RateLimited, standing(limit, wait))
        }
        Admission::Unavailable => (Reason::LimitsUnavailable, Standing::default()),
    }
}
