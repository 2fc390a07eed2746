//! Random bytes of the operating system's generator, drawn many at a time. A call of the generator costs
//! more than what the bytes are for.

use std::cell::RefCell;

/// How many pieces come from one call.
const BATCH: usize = 64;

struct Pool {
    bytes: [u8; 16 * BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { bytes: [0; 16 * BATCH], used: 16 * BATCH }) };
}

/// Sixteen bytes that nothing else gets.
#[inline(always)]
pub fn sixteen() -> Result<[u8; 16], getrandom::Error> {
    POOL.with_borrow_mut(|pool| {
        if pool.used == pool.bytes.len() {
            getrandom::fill(&mut pool.bytes)?;
            pool.used = 0;
        }
        let mut random = [0; 16];
        random.copy_from_slice(&pool.bytes[pool.used..pool.used + 16]);
        pool.used += 16;
        Ok(random)
    })
}
