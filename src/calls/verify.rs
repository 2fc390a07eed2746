//! `verify`, `verify_many` and `verify_digest`.

use super::arguments;
use super::decision::{self, Decision, name};
use crate::decide::lookup::Reader;
use crate::decide::needs::{self, Listed, NeededScopes};
use crate::decide::presented::Presented;
use crate::verdict::{Form, Json, Row, Verdict};
use keysmith_core::key::digest::{DIGEST_LEN, KeyDigest};
use pg::call::{Bytes, Call, sql_functions};
use pg::error::{Error, Result};
use pg::result_set::ResultSet;
use pg::scratch;
use pgrx::pg_sys::Datum;

sql_functions! {
    keysmith_verify => verify;
    keysmith_verify_json => verify_json;
    keysmith_verify_digest => verify_digest;
    keysmith_verify_many => verify_many;
}

/// The positions of the arguments of `verify` and `verify_digest` after the first one.
mod position {
    pub const SCOPES: usize = 1;
    pub const IP: usize = 2;
    pub const KEYSPACE: usize = 3;
    pub const SPEND: usize = 4;
    pub const KIND: usize = 5;
    pub const ENVIRONMENT: usize = 6;
    pub const SIGN_IN: usize = 7;
    pub const WEIGHT: usize = 8;
    pub const WEIGHTS: usize = 9;
    pub const SUBJECT: usize = 10;
    /// `verify_many` lacks the arguments that concern a single request.
    pub const KIND_OF_MANY: usize = 4;
    pub const ENVIRONMENT_OF_MANY: usize = 5;
}

fn verify(call: &Call) -> Result<Option<Datum>> {
    let verdict: Verdict<Row> = one(call, Presented::argument(call, 0))?;
    Ok(Some(verdict.record.into_datum()))
}

fn verify_json(call: &Call) -> Result<Option<Datum>> {
    let verdict: Verdict<Json> = one(call, Presented::argument(call, 0))?;
    Ok(Some(verdict.record.into_datum()))
}

fn verify_digest(call: &Call) -> Result<Option<Datum>> {
    let presented = match call.bytes(0, DIGEST_LEN) {
        None => Presented::Nothing,
        Some(Bytes::TooLong) => Presented::Garbage,
        Some(Bytes::Read(bytes)) => {
            KeyDigest::from_slice(bytes).map_or(Presented::Garbage, Presented::Digest)
        }
    };
    let verdict: Verdict<Row> = one(call, presented)?;
    Ok(Some(verdict.record.into_datum()))
}

fn one<'c, F: Form>(call: &'c Call, presented: Presented) -> Result<Verdict<'c, F>> {
    let keyspace = name(call, position::KEYSPACE).unwrap_or_default();
    let catalog = decision::catalog(keyspace)?;
    let reader = Reader::new(&catalog);
    let (policy, sought) = reader.sought(keyspace, |_| presented)?;
    let needs = asked(call)?;
    let weights = arguments::weights(call, Some(position::WEIGHT), position::WEIGHTS)?;
    let mut decision = Decision::new(&reader, policy, keyspace, &needs);
    decision.demand.address = call.address(position::IP);
    decision.demand.kind = name(call, position::KIND);
    decision.demand.environment = name(call, position::ENVIRONMENT);
    decision.signs_in = call.boolean(position::SIGN_IN, "sign_in")?;
    decision.charge.spend = arguments::spend(call, position::SPEND)?;
    decision.charge.weights = weights.weights(1);
    decision.charge.can_settle = weights.are_told();
    decision.charge.subject = arguments::subject(call, position::SUBJECT)?;
    decision.verdict(call.memory(), sought)
}

/// Returns a verdict for each key of an array, in the array's order, all under one snapshot.
fn verify_many(call: &Call) -> Result<Option<Datum>> {
    let keyspace = name(call, position::KEYSPACE).unwrap_or_default();
    let catalog = decision::catalog(keyspace)?;
    let reader = Reader::new(&catalog);
    let policy = reader.policy(keyspace)?;
    let needs = asked(call)?;
    let mut decision = Decision::new(&reader, policy.clone(), keyspace, &needs);
    decision.demand.address = call.address(position::IP);
    decision.demand.kind = name(call, position::KIND_OF_MANY);
    decision.demand.environment = name(call, position::ENVIRONMENT_OF_MANY);
    let result = ResultSet::of(call);
    let Some(keys) = call.array(0) else { return Ok(None) };
    scratch::for_each(keys.iter(), |memory, key| {
        pgrx::check_for_interrupts!();
        let presented = key.map_or(Presented::Nothing, Presented::text);
        let sought = presented.sought(&policy, keyspace);
        let verdict: Verdict<Row> = decision.verdict(memory, sought)?;
        result.put_composite(verdict.record);
        Ok(())
    })?;
    Ok(None)
}

/// The argument `scopes`. If it can't be parsed, that is an error of the caller, and no refusal of
/// the key.
#[inline]
fn asked<'a>(call: &'a Call) -> Result<NeededScopes<'a>> {
    let listed = Listed::read(call.array(position::SCOPES));
    listed
        .map(NeededScopes::Listed)
        .map_err(|rule| Error::argument("scopes", rule).hint(needs::EXPRESSION_HINT))
}
