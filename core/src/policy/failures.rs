//! The limit of failed attempts of an address: requests that present something in place of a valid
//! key.
//!
//! It is stored as a text, `20/1 minute`: so many a window, and as many at once.

use super::limits::{calls, length, shown_window};
use crate::buckets::{NOBODY, Owner};
use crate::gcra::Rate;
use crate::siphash::SipHasher;
use std::net::IpAddr;

/// The stored text of a limit.
pub fn stored_form(rate: Rate) -> String {
    format!("{}/{}", rate.limit(), shown_window(rate))
}

/// Reads a stored text.
pub fn stored(text: &[u8]) -> Option<Rate> {
    let slash = text.iter().position(|byte| *byte == b'/')?;
    let (limit, window) = text.split_at_checked(slash)?;
    let limit = calls(limit)?;
    Rate::new(limit, length(window.get(1..)?)?, limit)
}

/// Whose attempts are counted together: an IPv4 address, or a network of IPv6 that a single client
/// may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    V4([u8; 4]),
    /// The /64 of an address.
    V6([u8; 8]),
}

impl Source {
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Source::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// The name of its bucket. The hash has begun with what else tells buckets apart.
    pub fn bucket(self, mut hasher: SipHasher) -> u128 {
        match self {
            Source::V4(address) => hasher.sized(&address),
            Source::V6(network) => hasher.sized(&network),
        };
        hasher.finish()
    }

    /// The owner of its bucket: the /48, which a single client may have, too. So its 65,536
    /// networks leave room for others.
    pub fn owner(self, mut hasher: SipHasher) -> Owner {
        match self {
            Source::V4(_) => NOBODY,
            Source::V6([a, b, c, d, e, f, ..]) => {
                hasher.sized(&[a, b, c, d, e, f]);
                (hasher.finish() as Owner).max(NOBODY + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcra::{MAX_CALLS, MAX_WINDOW, MIN_WINDOW};
    use proptest::prelude::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_client_are_one_source() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(source(one) == source(other), same, "{one} {other}");
            let hasher = SipHasher::new([1, 2]);
            let buckets = [one, other].map(|address| source(address).bucket(hasher.clone()));
            assert_eq!(buckets[0] == buckets[1], same, "{one} {other}");
        }
    }

    #[test]
    fn networks_of_one_site_have_one_owner() {
        let owner = |address| source(address).owner(SipHasher::new([1, 2]));
        assert_eq!(owner("2001:db8::1"), owner("2001:db8:0:ffff::1"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:1::1"));
        assert_eq!(owner("192.0.2.1"), NOBODY);
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
