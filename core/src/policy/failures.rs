//! The limit of failed attempts of an address: requests that present something in place of a valid
//! key.
//!
//! It is stored as a text, `20/1 minute`: so many a window, and as many at once.

use super::limits::{counted_network, leading_number, length, window};
use crate::gcra::Rate;
use crate::siphash::SipHasher;
use std::net::IpAddr;

/// The stored text of a limit.
pub fn stored_form(rate: Rate) -> String {
    format!("{}/{}", rate.limit(), window(rate))
}

/// Reads a stored text. One that can't be read must not count as no limit.
pub fn stored(text: &[u8]) -> Option<Rate> {
    let (limit, window) = leading_number(text)?;
    let limit = u32::try_from(limit).ok()?;
    Rate::new(limit, length(window.strip_prefix(b"/")?)?, limit)
}

/// The name of an address's bucket. The hash has begun with what else tells buckets apart.
pub fn bucket(address: IpAddr, mut hasher: SipHasher) -> u128 {
    let (network, length) = counted_network(address);
    hasher.sized(network.get(..length).unwrap_or_default());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcra::{MAX_CALLS, MAX_WINDOW, MIN_WINDOW};
    use proptest::prelude::*;

    fn named(address: &str) -> u128 {
        bucket(address.parse().unwrap(), SipHasher::new([1, 2]))
    }

    #[test]
    fn addresses_of_one_client_are_counted_together() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(named(one) == named(other), same, "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(limit in 1..=MAX_CALLS, window in MIN_WINDOW..=MAX_WINDOW) {
            let rate = Rate::new(limit, window, limit).unwrap();
            prop_assert_eq!(stored(stored_form(rate).as_bytes()), Some(rate));
        }
    }

    #[test]
    fn anything_else_is_no_limit() {
        let rate = Rate::new(20, 60_000_000, 20).unwrap();
        assert_eq!(stored_form(rate), "20/1 minute");
        for bad in
            ["", "20", "20/", "/1 minute", "0/1 minute", "20/1", "20/1 year", "20/1 minute/20"]
        {
            assert_eq!(stored(bad.as_bytes()), None, "{bad}");
        }
    }
}
