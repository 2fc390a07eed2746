//! Request ids: uuids that begin with the time, made in the backend.

use keysmith_core::request_id;
use std::cell::RefCell;

/// How many ids are made from one call to the operating system's random generator. That call costs
/// more than all the rest.
const BATCH: usize = 64;

struct Pool {
    bytes: [u8; 16 * BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { bytes: [0; 16 * BATCH], used: 16 * BATCH }) };
}

/// An id for a request at this moment. If the operating system has no entropy, it is the nil uuid:
/// a decision does not fail for lack of an id.
#[inline(always)]
pub fn next(moment: i64) -> [u8; 16] {
    POOL.with_borrow_mut(|pool| {
        if pool.used == pool.bytes.len() {
            if getrandom::fill(&mut pool.bytes).is_err() {
                return [0; 16];
            }
            pool.used = 0;
        }
        let mut random = [0; 16];
        random.copy_from_slice(&pool.bytes[pool.used..pool.used + 16]);
        pool.used += 16;
        request_id::at(moment, random)
    })
}
