//! Arguments that several functions share.

use keysmith_core::policy::weights::{Asked, MAX_WEIGHT, WEIGHT_RULE};
use pg::call::{Bytes, Call, must_not_be_null};
use pg::error::{Error, Result};
use pg::jsonb::Json;

/// The argument `spend`.
pub fn spend(call: &Call, n: usize) -> Result<i64> {
    const NAME: &str = "spend";
    match call.bigint(n) {
        None => Err(must_not_be_null(NAME)),
        Some(spend) if spend < 0 => Err(Error::argument(NAME, "must not be negative")),
        Some(spend) => Ok(spend),
    }
}

/// The argument `weights`, and the argument `weight`, which is one of them.
#[inline]
pub fn weights<'a>(call: &'a Call, weight: Option<usize>, weights: usize) -> Result<Asked<'a>> {
    let calls = weight.and_then(|n| call.integer(n)).map(u32::try_from).transpose();
    let calls = calls.ok().filter(|calls| calls.is_none_or(|calls| calls <= MAX_WEIGHT));
    let calls = calls.ok_or_else(|| Error::argument("weight", WEIGHT_RULE))?;
    match call.json(weights) {
        None => Ok(Asked::new(calls)),
        Some(given) => read_weights(Asked::new(calls), given),
    }
}

#[cold]
fn read_weights<'a>(mut asked: Asked<'a>, given: Json<'a>) -> Result<Asked<'a>> {
    let fault = |rule| {
        Error::argument("weights", rule)
            .hint(r#"It is an object of units and whole numbers, such as {"tokens": 1200}."#)
    };
    let Json::Object(units) = given else { return Err(fault("must be a JSON object")) };
    for (unit, weight) in units.pairs() {
        asked.add(unit, weight.whole_number()).map_err(fault)?;
    }
    Ok(asked)
}

/// The argument `subject`: for whom the application makes the request.
#[inline]
pub fn subject(call: &Call, n: usize) -> Result<Option<&[u8]>> {
    const MOST: usize = 128;
    match call.bytes(n, MOST) {
        None => Ok(None),
        Some(Bytes::Read(subject)) if !subject.is_empty() => Ok(Some(subject)),
        Some(_) => Err(Error::argument("subject", "must have 1 to 128 bytes")),
    }
}
