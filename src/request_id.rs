//! Names for requests: uuids that begin with the time, made in the backend.

use keysmith_core::request_id;
use std::cell::RefCell;

/// How many are made of one draw from the operating system, which costs more than
/// all the rest of making one.
const BATCH: usize = 64;

struct Pool {
    bytes: [u8; 16 * BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { bytes: [0; 16 * BATCH], used: 16 * BATCH }) };
}

/// A name for a request of that moment. Where the operating system has no entropy to
/// give, the nil uuid: a decision does not fail for want of a name.
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
