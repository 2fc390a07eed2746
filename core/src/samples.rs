//! Samples of the requests that are only counted. They leave a row: of each tenant and outcome the first
//! request in a minute, and at most `MOST` in a minute.

use crate::siphash::SipHasher;

pub const MOST: usize = 100;

/// The samples of a minute. It has a fixed size, so it can be in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Samples {
    minute: i64,
    count: usize,
    /// Hashes of tenants and outcomes.
    taken: [u64; MOST],
}

impl Samples {
    pub const fn new() -> Samples {
        Samples { minute: i64::MIN, count: 0, taken: [0; MOST] }
    }

    /// Whether a request is a sample. Another one like it is not a sample until the next minute.
    pub fn take(&mut self, minute: i64, tenant_id: &[u8; 16], outcome: &[u8]) -> bool {
        // The clock never goes back. A slow process may bring an earlier minute.
        if minute > self.minute {
            *self = Samples { minute, ..Samples::new() };
        }
        if self.count == MOST {
            return false;
        }
        let hash = hash(tenant_id, outcome);
        if self.taken.iter().take(self.count).any(|taken| *taken == hash) {
            return false;
        }
        if let Some(place) = self.taken.get_mut(self.count) {
            *place = hash;
            self.count += 1;
        }
        true
    }
}

impl Default for Samples {
    fn default() -> Samples {
        Samples::new()
    }
}

fn hash(tenant_id: &[u8; 16], outcome: &[u8]) -> u64 {
    let mut hasher = SipHasher::new([0; 2]);
    hasher.fixed(tenant_id);
    hasher.fixed(outcome);
    hasher.finish() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_tenant_and_outcome_is_a_sample() {
        let mut samples = Samples::new();
        let (one, other) = ([1; 16], [2; 16]);
        assert!(samples.take(5, &one, b"ok"));
        assert!(!samples.take(5, &one, b"ok"));
        assert!(samples.take(5, &one, b"revoked"));
        assert!(samples.take(5, &other, b"ok"));
        assert!(!samples.take(4, &other, b"ok"));
        assert!(samples.take(6, &one, b"ok"));
        assert!(!samples.take(6, &one, b"ok"));
    }

    #[test]
    fn a_minute_has_a_bounded_number_of_samples() {
        let mut samples = Samples::new();
        for minute in 0..3 {
            let mut taken = |tenant: u8| samples.take(minute, &[tenant; 16], b"ok");
            assert_eq!((0..=255).filter(|tenant| taken(*tenant)).count(), MOST);
        }
    }
}
