//! Arguments that several functions share.

use pg::call::{Call, must_not_be_null};
use pg::error::{Error, Result};

/// The argument `spend`.
pub fn spend(call: &Call, n: usize) -> Result<i64> {
    const NAME: &str = "spend";
    match call.bigint(n) {
        None => Err(must_not_be_null(NAME)),
        Some(spend) if spend < 0 => Err(Error::argument(NAME, "must not be negative")),
        Some(spend) => Ok(spend),
    }
}

/// The argument `weight`; null stands for the weight of the route.
pub fn weight(call: &Call, n: usize) -> Result<Option<u32>> {
    let weight = call.integer(n).map(u32::try_from).transpose();
    weight.map_err(|_| Error::argument("weight", "must not be negative"))
}

/// The argument `weight`, which must not be null.
pub fn required_weight(call: &Call, n: usize) -> Result<u32> {
    weight(call, n)?.ok_or_else(|| must_not_be_null("weight"))
}
