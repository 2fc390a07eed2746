//! The networks that a key may be used from.

pub use ipnet::IpNet;
use std::net::IpAddr;

/// The most networks of an allowlist.
pub const MAX_NETWORKS: usize = 1000;

/// A list of networks.
pub trait Allowlist {
    fn admits(&self, address: IpAddr) -> bool;
}

/// The lists that hold for a key, if at least one is set. An address must be in each one.
pub trait Allowlists {
    /// Those of the key, of its tenant, of its keyspace, and of its token.
    fn all(&self) -> [Option<&dyn Allowlist>; 4];

    fn admit(&self, address: IpAddr) -> bool {
        self.all().into_iter().flatten().all(|list| list.admits(address))
    }

    /// The holders of the lists that refuse an address; of all lists, if there is no address.
    fn refusing(&self, address: Option<IpAddr>) -> Vec<&'static str> {
        let refuses = |list: &dyn Allowlist| address.is_none_or(|address| !list.admits(address));
        let lists = HOLDERS.into_iter().zip(self.all());
        lists
            .filter_map(|(holder, list)| list.filter(|list| refuses(*list)).map(|_| holder))
            .collect()
    }
}

/// How people call the holders of the lists.
const HOLDERS: [&str; 4] = ["the key", "its tenant", "its keyspace", "its token"];

impl Allowlist for &[IpNet] {
    fn admits(&self, address: IpAddr) -> bool {
        self.iter().any(|network| contains(*network, address))
    }
}

/// Many networks, sorted for a quick search.
pub struct Ranges {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    pub fn new(networks: impl Iterator<Item = IpNet>) -> Ranges {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks.map(unmapped) {
            let range = (number(network.network()), number(network.broadcast()));
            if network.addr().is_ipv4() { v4.push(range) } else { v6.push(range) }
        }
        Ranges { v4: merged(v4), v6: merged(v6) }
    }
}

impl Allowlist for Ranges {
    fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = number(address);
        let after = ranges.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).is_some_and(|index| address <= ranges[index].1)
    }
}

/// The first and the last address of each range, in order. Ranges neither overlap nor touch.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    ranges.dedup_by(|(first, last), before| {
        let joins = *first <= before.1.saturating_add(1);
        if joins {
            before.1 = before.1.max(*last);
        }
        joins
    });
    ranges
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Whether an address is in a network. On both sides, an IPv4 address is the same if it is mapped
/// into IPv6 (`::ffff:203.0.113.7`).
#[inline]
pub fn contains(network: IpNet, address: IpAddr) -> bool {
    unmapped(network).contains(&address.to_canonical())
}

/// Whether all addresses of a network are in one of other networks.
pub fn covers(networks: &[IpNet], network: IpNet) -> bool {
    let network = unmapped(network);
    networks.iter().any(|own| unmapped(*own).contains(&network))
}

/// The IPv4 network that is mapped into an IPv6 network.
#[inline]
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(bits) = v6.prefix_len().checked_sub(MAPPED_BITS)
        && let Ok(v4) = ipnet::Ipv4Net::new(v4, bits)
    {
        return IpNet::V4(v4);
    }
    network
}

/// Reads one network. The error says what is accepted.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                return Err("must be a network such as 203.0.113.0/24 or 2001:db8::/32".into());
            }
        },
    };
    if network.addr() != network.network() {
        return Err(format!("must have no host bits set; write {}", network.trunc()));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn admits(network: &str, address: &str) -> bool {
        [parse(network).unwrap()].as_slice().admits(address.parse().unwrap())
    }

    #[test]
    fn edges_of_networks() {
        for (network, address, expected) in [
            ("203.0.113.0/24", "203.0.113.0", true),
            ("203.0.113.0/24", "203.0.113.255", true),
            ("203.0.113.0/24", "203.0.112.255", false),
            ("203.0.113.0/24", "203.0.114.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "203.0.113.7", false),
            ("203.0.113.7", "203.0.113.7", true),
            ("203.0.113.7/32", "203.0.113.8", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("2001:db8::1/128", "2001:db8::1", true),
        ] {
            assert_eq!(admits(network, address), expected, "{network} ~ {address}");
        }
    }

    #[test]
    fn mapped_addresses_are_their_ipv4_selves() {
        assert!(admits("203.0.113.0/24", "::ffff:203.0.113.9"));
        assert!(!admits("203.0.113.0/24", "::ffff:203.0.114.9"));
        assert!(admits("::ffff:203.0.113.0/120", "203.0.113.9"));
        assert!(!admits("::ffff:203.0.113.0/120", "203.0.114.9"));
    }

    #[test]
    fn an_address_must_be_in_each_list() {
        let lists = [["10.0.0.0/8"], ["10.1.0.0/16"], ["10.1.1.0/24"], ["10.1.1.1/32"]]
            .map(|list| Ranges::new(list.iter().map(|network| parse(network).unwrap())));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for set in 1..16u8 {
            let is_set = |n: usize| set & (1 << n) != 0;
            let all = Lists([0, 1, 2, 3].map(|n| is_set(n).then_some(&lists[n])));
            for (within, from) in
                ["9.9.9.9", "10.9.9.9", "10.1.9.9", "10.1.1.9", "10.1.1.1"].into_iter().enumerate()
            {
                let refusing: Vec<_> =
                    (within..4).filter(|n| is_set(*n)).map(|n| HOLDERS[n]).collect();
                assert_eq!(all.admit(address(from)), refusing.is_empty(), "{set} {from}");
                assert_eq!(all.refusing(Some(address(from))), refusing, "{set} {from}");
            }
            let set: Vec<_> = (0..4).filter(|n| is_set(*n)).map(|n| HOLDERS[n]).collect();
            assert_eq!(all.refusing(None), set);
        }
    }

    struct Lists<'a>([Option<&'a Ranges>; 4]);
    impl Allowlists for Lists<'_> {
        fn all(&self) -> [Option<&dyn Allowlist>; 4] {
            self.0.map(|list| list.map(|list| list as &dyn Allowlist))
        }
    }

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<u16>(), 8..=32u8)
            .prop_map(|(low, bits)| IpNet::new(Ipv4Addr::from(u32::from(low) << 8).into(), bits));
        let v6 = (any::<u16>(), 90..=128u8).prop_map(|(low, bits)| {
            IpNet::new(Ipv6Addr::from(0xffff_0000_0000 | u128::from(low) << 8).into(), bits)
        });
        let network = prop_oneof![v4, v6].prop_map(|network| network.unwrap().trunc());
        proptest::collection::vec(network, 0..20)
    }

    proptest! {
        #[test]
        fn ranges_admit_what_the_list_does(list in networks(), low in 0..0x1000_0000u32, high in any::<bool>()) {
            let ranges = Ranges::new(list.iter().copied());
            let low = if high { low } else { low & 0xff_ffff };
            for address in [IpAddr::from(Ipv4Addr::from(low)), Ipv6Addr::from(u128::from(low)).into(),
                            Ipv4Addr::from(low).to_ipv6_mapped().into()] {
                prop_assert_eq!(ranges.admits(address), list.as_slice().admits(address), "{}", address);
            }
            // The edges of each network.
            for network in &list {
                for address in [network.network(), network.broadcast()] {
                    prop_assert_eq!(ranges.admits(address), list.as_slice().admits(address));
                }
            }
        }
    }

    #[test]
    fn host_bits_are_corrected_in_the_message() {
        assert!(parse("203.0.113.7/24").unwrap_err().ends_with("write 203.0.113.0/24"));
        assert!(parse("2001:db8::1/32").unwrap_err().ends_with("write 2001:db8::/32"));
        for bad in ["", "x", "203.0.113.0/33", "203.0.113", "203.0.113.0/", "::/129", "1.2.3.4/ 8"]
        {
            assert!(parse(bad).unwrap_err().starts_with("must be"), "{bad}");
        }
    }
}
