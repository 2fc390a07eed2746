//! The networks of trusted proxies, as a setting lists them.

use super::allowlist;
use ipnet::IpNet;
use std::net::IpAddr;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Reads `10.0.0.0/8, fd00::1`: networks or addresses, separated by commas. A network whose
    /// address has bits set after its length is rejected: it may be a mistake.
    pub fn parse(list: &str) -> Option<Proxies> {
        if list.trim().is_empty() {
            return Some(Proxies::default());
        }
        list.split(',').map(|entry| network(entry.trim())).collect::<Option<_>>().map(Proxies)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| allowlist::contains(*network, address))
    }
}

fn network(entry: &str) -> Option<IpNet> {
    match entry.parse::<IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => entry.parse::<IpNet>().ok().filter(|network| network.addr() == network.network()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusts(list: &str, address: &str) -> bool {
        Proxies::parse(list).unwrap().trusts(address.parse().unwrap())
    }

    #[test]
    fn networks_and_addresses() {
        let list = " 10.0.0.0/8,192.0.2.1 , fd00::/16";
        for address in ["10.0.0.1", "10.255.255.255", "192.0.2.1", "fd00:1::2"] {
            assert!(trusts(list, address), "{address}");
        }
        for address in ["11.0.0.1", "192.0.2.2", "fd01::1", "::1"] {
            assert!(!trusts(list, address), "{address}");
        }
    }

    #[test]
    fn an_empty_list_trusts_nobody() {
        for list in ["", " \t"] {
            assert!(Proxies::parse(list).unwrap().is_empty());
            assert!(!trusts(list, "10.0.0.1"));
        }
    }

    #[test]
    fn what_is_no_network_spoils_the_list() {
        for list in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/8,",
            ",",
            "10.0.0/8",
            "all",
            "fd00::/129",
            "10.0.0.0/8;192.0.2.1",
            "10.0.0.0 /8",
        ] {
            assert_eq!(Proxies::parse(list), None, "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "[0-9a-f:./, ]{0,40}") {
            let _ = Proxies::parse(&list);
        }

        #[test]
        fn a_network_trusts_its_own_and_no_other(a: u32, b: u32, bits in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let network = std::net::Ipv4Addr::from(a & mask);
            let address = std::net::Ipv4Addr::from(b);
            let list = format!("{network}/{bits}");
            prop_assert_eq!(trusts(&list, &address.to_string()), a & mask == b & mask);
        }
    }
}
