//! Networks, one per line, and an address in the last line: the sorted ranges must admit the
//! same addresses as the list.

#![no_main]

use ipnet::IpNet;
use keysmith_core::policy::allowlist::{self, Allowlist, Ranges};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let networks: Vec<IpNet> =
        text.lines().filter_map(|line| allowlist::parse(line).ok()).collect();
    for network in &networks {
        assert_eq!(allowlist::parse(&network.to_string()).as_ref(), Ok(network));
        assert!(allowlist::contains(*network, network.network()));
        // IPv4 addresses are not part of an IPv6 network, not even of one that contains the
        // whole range to which they are mapped.
        let is_around_mapped =
            matches!(network, IpNet::V6(_)) && network.broadcast().to_canonical().is_ipv4();
        if !is_around_mapped || network.prefix_len() >= 96 {
            assert!(allowlist::contains(*network, network.broadcast()));
        }
    }
    let ranges = Ranges::new(networks.iter().copied());
    let edges = networks.iter().flat_map(|network| {
        let (first, last) = (network.network(), network.broadcast());
        [before(first), Some(first), Some(last), after(last)]
    });
    let given = text.lines().filter_map(|line| line.parse().ok()).map(Some);
    for address in edges.chain(given).flatten() {
        let admitted = networks.as_slice().admits(address);
        assert_eq!(ranges.admits(address), admitted, "{address}");
        let one_by_one = networks.iter().any(|network| allowlist::contains(*network, address));
        assert_eq!(admitted, one_by_one, "{address}");
    }
});

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).checked_sub(1)?.into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).checked_sub(1)?.into()),
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).checked_add(1)?.into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).checked_add(1)?.into()),
    })
}
