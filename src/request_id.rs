//! Request ids: uuids that begin with the time, made in the backend.

use crate::random;
use keysmith_core::request_id;

/// An id for a request at this moment. If the operating system has no entropy, it is the nil uuid:
/// a decision does not fail for lack of an id.
#[inline(always)]
pub fn next(moment: i64) -> [u8; 16] {
    random::sixteen().map_or([0; 16], |random| request_id::at(moment, random))
}
