//! `explain_verify`: what each rule saw, for people who look for the reason of a decision.

use super::arguments;
use super::authenticate::{self, RouteRequirement, text};
use super::decision::{self, demand, name};
use crate::catalog::access;
use crate::catalog::policy::Policy;
use crate::decide::charge::{self, Charge};
use crate::decide::credits::{self, Intent, Spending};
use crate::decide::limits;
use crate::decide::lookup::Reader;
use crate::decide::needs::{Listed, NeededScopes, shortened};
use crate::decide::presented::{Presented, Sought};
use crate::decide::token;
use crate::limit::failures::{self, Attempt};
use crate::verdict::Holder;
use crate::{lag, limit};
use keysmith_core::claims::Bound;
use keysmith_core::policy::allowlist::Allowlists;
use keysmith_core::policy::lifetime::Life;
use keysmith_core::policy::rules::{Demand, Found, Instant, Kind, RULES};
use keysmith_core::policy::scope::Required;
use keysmith_core::policy::verdict::Reason;
use keysmith_core::token::verify::{Invalid, Token};
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::output;
use pg::result_set::{Cell, ResultSet};
use pg::text::lossy;
use pgrx::pg_sys::Datum;
use std::net::IpAddr;

sql_functions! {
    keysmith_explain_verify => explain_verify;
}

/// A row of the explanation. A rule is not reached if there was nothing for it to check.
struct Step {
    rule: &'static str,
    outcome: StepResult,
    saw: String,
}

#[derive(Clone, Copy)]
enum StepResult {
    Pass,
    /// It passes without the other rules.
    LetThrough,
    Refuse(Reason),
    NotReached,
}

fn explain_verify(call: &Call) -> Result<Option<Datum>> {
    let catalog = decision::opened()?;
    let keyspace = name(call, 3).unwrap_or_default();
    access::must_reach(&catalog, keyspace, access::EXPLAINING)?;
    let reader = Reader::new(&catalog);
    let policy = reader.policy(keyspace)?;
    let presented = match call.json(9) {
        Some(headers) => authenticate::presented(call.memory(), Some(headers), &policy.schemes),
        None => Presented::argument(call, 0),
    };
    let is_request = call.datum(10).is_some() || call.datum(11).is_some();
    let required = if is_request {
        let path = authenticate::path(text(call, 11));
        authenticate::required(text(call, 10), &path, text(call, 12), &policy)
    } else {
        let needs = Listed::read(call.array(1)).map_or_else(
            |rule| NeededScopes::Impossible(format!("verify raises KS400: scopes {rule}").into()),
            NeededScopes::Listed,
        );
        RouteRequirement { needs, kind: None, route: None, needs_key: false }
    };
    let needs = &required.needs;
    // `sign_in` does not change the decision, but verify rejects null.
    call.boolean(7, "sign_in")?;
    let demand = Demand {
        address: call.address(2),
        kind: name(call, 5).or(required.kind),
        environment: name(call, 6),
        ..demand(needs)
    };
    let weights = arguments::weights(call, Some(8), 13)?;
    let charge = Charge {
        route: required.route,
        spend: arguments::spend(call, 4)?,
        weights: weights.weights(required.weight()),
        subject: arguments::subject(call, 14)?,
        ..Charge::default()
    };
    let is_public = required.route.is_some_and(|route| route.is_public);
    let asked = Asked { reader: &reader, policy: &policy, keyspace, demand, charge, needs };
    let mut steps = match presented {
        Presented::Nothing if is_public => let_through(&asked),
        presented => steps(&asked, presented)?,
    };
    let failures = policy.failure_limit.as_deref();
    steps.extend(failures.map(|limit| failed_attempts(&asked, limit, &steps)));
    let result = ResultSet::of(call);
    for (index, step) in (1..).zip(&steps) {
        step.put(index, result);
    }
    Ok(None)
}

/// The question that is explained.
struct Asked<'a> {
    reader: &'a Reader<'a>,
    policy: &'a Policy,
    keyspace: &'a [u8],
    demand: Demand<'a>,
    charge: Charge<'a>,
    needs: &'a NeededScopes<'a>,
}

fn steps(asked: &Asked, presented: Presented) -> Result<Vec<Step>> {
    let policy = asked.policy;
    let sought = presented.sought(policy, asked.keyspace);
    let refused =
        |reasons: &[Reason]| sought.as_ref().err().copied().filter(|r| reasons.contains(r));
    let absent = refused(&[Reason::Missing, Reason::MalformedHeader]);
    let mut steps = vec![
        Step {
            rule: "presented",
            outcome: absent.map_or(StepResult::Pass, StepResult::Refuse),
            saw: what_was_presented(presented),
        },
        Step {
            rule: "format",
            outcome: match (absent, refused(&[Reason::MalformedKey, Reason::TokenInvalid])) {
                (Some(_), _) => StepResult::NotReached,
                (None, Some(reason)) => StepResult::Refuse(reason),
                (None, None) => StepResult::Pass,
            },
            saw: match (absent, &sought) {
                (Some(_), _) => String::new(),
                (None, Ok(Sought::Token(_))) => "a token with a good signature".into(),
                (None, Err(Reason::TokenInvalid)) => invalid_token(presented, asked),
                (None, Ok(_)) if policy.has_imports => "any format, as keys were imported".into(),
                (None, Ok(_)) => "well-formed".into(),
                (None, Err(_)) => "not the form of a key, or a wrong checksum".into(),
            },
        },
    ];
    let looked_up = sought.map(|sought| {
        let rows = asked.reader.find_sought(sought, asked.keyspace)?;
        let own = rows.scopes();
        let bound = rows.tenants_scopes();
        let bound = bound.as_deref();
        let held = rows.held(policy, &own, bound);
        let allowlists = rows.allowlists(policy);
        let life = rows.life(policy);
        let found = rows.found(life.end(), held, allowlists.as_ref());
        let effective = held.effective();
        let holder = rows.holder(life.end(), asked.keyspace, &own, bound, &effective);
        let mut steps = steps_on(&found, &life, &holder, &asked.demand, asked.needs);
        Ok(charges(asked, &holder).map(|charges| {
            steps.extend(charges);
            steps
        }))
    });
    let (outcome, saw, rest) = match looked_up {
        Ok(_)
            if lag::is_behind(asked.reader.catalog, asked.reader.snapshot(), asked.demand.now) =>
        {
            (StepResult::Refuse(Reason::ReplicaBehind), "a server that has fallen behind", None)
        }
        Err(_) => (StepResult::NotReached, "", None),
        Ok(Err(reason)) if !policy.exists() => {
            (StepResult::Refuse(reason), "there is no such keyspace", None)
        }
        Ok(Err(Reason::WrongKeyspace)) => {
            (StepResult::Refuse(Reason::WrongKeyspace), "a key of another keyspace", None)
        }
        Ok(Err(Reason::TokenInvalid)) => {
            (StepResult::Refuse(Reason::TokenInvalid), "a token of a key that is not there", None)
        }
        Ok(Err(reason)) => (StepResult::Refuse(reason), "no such key", None),
        Ok(Ok(rest)) => (StepResult::Pass, "a key of the keyspace", Some(rest?)),
    };
    steps.push(Step { rule: "found", outcome, saw: saw.into() });
    steps.extend(rest.unwrap_or_else(|| rules_and_charges().map(Step::not_reached).collect()));
    Ok(steps)
}

/// The steps of a request without a key on a public route.
fn let_through(asked: &Asked) -> Vec<Step> {
    let is_behind = lag::is_behind(asked.reader.catalog, asked.reader.snapshot(), asked.demand.now);
    let (outcome, saw) = if is_behind {
        (StepResult::Refuse(Reason::ReplicaBehind), "no key, and a server that has fallen behind")
    } else {
        (StepResult::LetThrough, "no key, and the route is public")
    };
    let presented = Step { rule: "presented", outcome, saw: saw.into() };
    let others = ["format", "found"].into_iter().chain(rules_and_charges());
    [presented].into_iter().chain(others.map(Step::not_reached)).collect()
}

fn rules_and_charges() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name).chain([LIMITS, CREDITS])
}

/// Applies every rule, also those after the one that decides.
fn steps_on(
    found: &Found,
    life: &Life,
    holder: &Holder,
    demand: &Demand,
    needs: &NeededScopes,
) -> Vec<Step> {
    RULES
        .iter()
        .map(|rule| Step {
            rule: rule.name,
            outcome: (rule.refuses)(found, demand).map_or(StepResult::Pass, StepResult::Refuse),
            saw: match rule.name {
                "expiry" => expiry(life, found.token),
                rule => what_it_saw(rule, found, holder, demand, needs),
            },
        })
        .collect()
}

/// The names of the steps that charge a request after all rules let it pass.
const LIMITS: &str = "limits";
const CREDITS: &str = "credits";

/// Checks limits and credits, without taking anything from them.
fn charges(asked: &Asked, holder: &Holder) -> Result<[Step; 2]> {
    let (policy, charge) = (asked.policy, &asked.charge);
    let step = |rule, reason, saw| {
        let outcome =
            if reason == Reason::Ok { StepResult::Pass } else { StepResult::Refuse(reason) };
        Step { rule, outcome, saw }
    };
    let account = &holder.account;
    let limits = if !limits::apply(policy, account, charge.route) {
        step(LIMITS, Reason::Ok, "no limits".into())
    } else if let Some(claims) =
        limits::claims(policy, account, &charge.counted(asked.demand.address))
    {
        let (reason, standing) = charge::told(limit::peek(claims));
        let saw = standing.limit.map_or("no limits".into(), |limit| {
            let weight = limit.weight;
            let unit = match limit.bound {
                Bound::Rate(_) => lossy(limit.unit),
                Bound::Concurrent(_) => "concurrent transactions".into(),
            };
            let taken = if reason == Reason::Ok { weight } else { 0 };
            let left = limit.remaining.saturating_add(taken);
            format!("{}: {left} {unit} left; the request counts for {weight}", lossy(limit.name))
        });
        step(LIMITS, reason, saw)
    } else {
        let saw = "limits that can't be kept: the library must be preloaded".into();
        step(LIMITS, Reason::LimitsUnavailable, saw)
    };
    let spend = charge.spend;
    let price = credits::Asked { key_id: &holder.key_id, request_id: &[0; 16], spend };
    let spending = credits::charge(asked.reader.catalog, policy, account, &price, Intent::Look)?;
    let (reason, saw) = match spending {
        Spending::Nothing => (Reason::Ok, "nothing is spent".into()),
        Spending::Spent { left } => {
            (Reason::Ok, format!("{spend} of {}", left.saturating_add(spend)))
        }
        Spending::Exhausted { left: None, .. } => (Reason::CreditsExhausted, "no credits".into()),
        Spending::Exhausted { left: Some(left), .. } => {
            (Reason::CreditsExhausted, format!("{left} are left, and it costs {spend}"))
        }
        Spending::Unwritable => (Reason::CreditsUnavailable, "nothing can be written here".into()),
        Spending::Held => (
            Reason::CreditsUnavailable,
            "another transaction is spending, and has not ended".into(),
        ),
    };
    Ok([limits, step(CREDITS, reason, saw)])
}

/// Whether the address has failed attempts left, if the first rule that refuses makes this one.
fn failed_attempts(asked: &Asked, limit: &str, steps: &[Step]) -> Step {
    const RULE: &str = "failures";
    let refusal = steps.iter().find_map(|step| match step.outcome {
        StepResult::Refuse(reason) => Some(reason),
        _ => None,
    });
    if !refusal.is_some_and(Reason::is_failed_attempt) {
        return Step::not_reached(RULE);
    }
    let Some(address) = asked.demand.address else {
        return Step { rule: RULE, outcome: StepResult::Pass, saw: "no address".into() };
    };
    let attempt = failures::peek(asked.keyspace, address, limit);
    let (outcome, left) = match attempt {
        Attempt::Allowed { left } => (StepResult::Pass, left.saturating_add(1)),
        Attempt::TooMany { .. } => (StepResult::Refuse(Reason::TooManyFailures), 0),
        Attempt::Uncounted => {
            let saw = "failed attempts that can't be counted: the limit can't be read, or the library is not preloaded".into();
            return Step { rule: RULE, outcome: StepResult::Pass, saw };
        }
    };
    let saw = format!("{address}: {left} failed attempts left");
    Step { rule: RULE, outcome, saw }
}

/// What is wrong with a token.
fn invalid_token(presented: Presented, asked: &Asked) -> String {
    let token = match presented {
        Presented::Key(text) => token::read(text, asked.policy, asked.keyspace),
        _ => None,
    };
    token.and_then(Result::err).map_or("a token", Invalid::message).into()
}

fn what_was_presented(presented: Presented) -> String {
    match presented {
        Presented::Nothing => "no key".into(),
        Presented::MalformedHeader => "a header that is not well-formed".into(),
        Presented::Garbage => "a text that is too long for a key".into(),
        Presented::Digest(_) => "a digest".into(),
        Presented::Key(key) => format!("a text of {} bytes", key.len()),
    }
}

fn what_it_saw(
    rule: &str,
    found: &Found,
    holder: &Holder,
    demand: &Demand,
    needs: &NeededScopes,
) -> String {
    let asked = |value: Option<&[u8]>| value.map_or("any".into(), lossy);
    match rule {
        "environment" => {
            format!("{}; {} was asked for", lossy(found.environment), asked(demand.environment))
        }
        "revocation" => moment(found.revoked_at, "not revoked", "revoked at"),
        "disablement" => match found.disabled {
            None => "enabled",
            Some(Reason::Idle) => {
                "disabled, because it was not used for the max_idle of its keyspace"
            }
            Some(_) => "disabled",
        }
        .into(),
        "tenant" => {
            let state = if found.tenant_suspended { "suspended" } else { "not suspended" };
            format!("{} is {state}", lossy(holder.tenant.unwrap_or_default()))
        }
        "owner" => match (holder.owner, found.owner_gone) {
            (None, _) => "no owner".into(),
            (Some(owner), true) => format!("{} is no longer a member", lossy(owner)),
            (Some(owner), false) => format!("{} is a member", lossy(owner)),
        },
        "address" => {
            let address = demand.address.map_or("no address".into(), |address| address.to_string());
            format!("{}; {address}", whose_allowlists(found.allowlists, demand.address))
        }
        "kind" => {
            let kind = match found.kind {
                Some(Kind::Secret) => "secret",
                Some(Kind::Publishable) => "publishable",
                None => "unknown",
            };
            format!("{kind}; {} was asked for", asked(demand.kind))
        }
        _ => {
            let held: Vec<String> = holder.scopes.iter().map(|scope| lossy(scope)).collect();
            let held = if held.is_empty() { "none".into() } else { held.join(", ") };
            let bound = if is_lost_to_bound(found, needs) { BOUND } else { "" };
            format!("holds {}; {needs}{bound}", shortened(&held))
        }
    }
}

/// The allowlists that refuse, or else all that are set.
fn whose_allowlists(lists: Option<&dyn Allowlists>, address: Option<IpAddr>) -> String {
    let Some(lists) = lists else { return "no allowlist".into() };
    match lists.refusing(address).as_slice() {
        [] => format!("in the allowlist of {}", lists.refusing(None).join(" and ")),
        refusing => format!("not in the allowlist of {}", refusing.join(" and ")),
    }
}

const BOUND: &str = ", which the scopes of its tenant leave out";

/// Whether the key would hold what is needed without the scopes of its tenant.
fn is_lost_to_bound(found: &Found, needs: &NeededScopes) -> bool {
    needs.refuses(&found.held).is_some() && needs.refuses(&found.held.bounded(None)).is_none()
}

/// When the key ends, which of several bounds decides, and when its token ends.
fn expiry(life: &Life, token: Option<&Token>) -> String {
    let mut saw = moment(life.end(), "does not expire", "expires at");
    if let Some(bound) = life.bound().filter(|_| life.latest().is_some()) {
        saw += &format!(", by {}", bound.name());
    }
    if let Some(token) = token {
        saw += &format!("; the token expires at {}", output::timestamp(token.expires_at));
    }
    saw
}

fn moment(moment: Option<Instant>, never: &str, at: &str) -> String {
    let Some(moment) = moment else { return never.into() };
    format!("{at} {}", output::timestamp(moment))
}

impl Step {
    fn not_reached(rule: &'static str) -> Step {
        Step { rule, outcome: StepResult::NotReached, saw: String::new() }
    }

    /// Adds it to the result, as a row of the type `keysmith_private.explanation`.
    fn put(&self, index: i32, result: ResultSet) {
        let (outcome, reason) = match self.outcome {
            StepResult::Pass => ("pass", None),
            StepResult::LetThrough => ("pass", Some(Reason::Public.name())),
            StepResult::Refuse(reason) => ("refuse", Some(reason.name())),
            StepResult::NotReached => ("not reached", None),
        };
        result.put([
            Cell::integer(Some(index)),
            Cell::text(self.rule),
            Cell::text(outcome),
            Cell::text_or_null(reason),
            Cell::text_or_null((!self.saw.is_empty()).then_some(&self.saw)),
        ]);
    }
}
