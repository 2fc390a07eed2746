//! Forwarded headers: the first byte chooses the header, lines are values. Text that a client
//! writes on the left must not change what a trusted proxy wrote on the right.

#![no_main]

use keysmith_core::policy::forwarded::client_address;
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn is_proxy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
}

fn address(peer: IpAddr, is_standard: bool, values: &[&[u8]]) -> Option<IpAddr> {
    let (others, standard) = if is_standard { (&[][..], values) } else { (values, &[][..]) };
    client_address(Some(peer), is_proxy, others, standard)
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    let is_standard = which & 1 != 0;
    let values: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    let found = address(PROXY, is_standard, &values);
    if let Some(found) = found {
        assert_eq!(found, found.to_canonical());
    }
    // A peer that is not a proxy is the client, whatever the header says.
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(address(stranger, is_standard, &values), Some(stranger));
    // The proxy's entry decides: a new value, or an element of the last.
    let appended: &[u8] = if is_standard { b"for=198.51.100.7" } else { b"198.51.100.7" };
    let client = Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)));
    let mut with_value = values.clone();
    with_value.push(appended);
    assert_eq!(address(PROXY, is_standard, &with_value), client);
    if let Some((last, before)) = values.split_last() {
        let joined = [*last, b", ", appended].concat();
        let mut with_element = before.to_vec();
        with_element.push(&joined);
        assert_eq!(address(PROXY, is_standard, &with_element), client, "an element is swallowed");
    }
});
