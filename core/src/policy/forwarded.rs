//! The address of the client behind trusted proxies.
//!
//! Each proxy appends, on the right, the address that it was called from. Read from the right, the
//! first address that is not a trusted proxy's is the client. The client itself may have written
//! everything to the left of it. So headers are read from the right, and nothing on the left
//! changes the meaning of what was read, not even a quotation mark that is never closed.

use super::header::{is_blank, trimmed, trimmed_start};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The most proxies that are followed.
const MAX_ENTRIES: usize = 64;

/// The client's address, if it is known. It is `peer`, unless the peer is a trusted proxy whose
/// headers name another one. The values of each header are in the order of the request. IPv4
/// addresses that are mapped into IPv6 become IPv4, also for `trusted`.
pub fn client_address(
    peer: Option<IpAddr>,
    trusted: impl Fn(IpAddr) -> bool,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
) -> Option<IpAddr> {
    let peer = peer?.to_canonical();
    if !trusted(peer) {
        return Some(peer);
    }
    named(trusted, x_forwarded_for, forwarded).unwrap_or(Some(peer))
}

/// The same for a peer that is a trusted proxy, but with an unknown address.
pub fn client_behind_proxy(
    trusted: impl Fn(IpAddr) -> bool,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
) -> Option<IpAddr> {
    named(trusted, x_forwarded_for, forwarded).flatten()
}

/// The client that the headers of a trusted proxy name, if they can be read. `None` without such
/// headers.
fn named(
    trusted: impl Fn(IpAddr) -> bool,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
) -> Option<Option<IpAddr>> {
    let by_x_forwarded_for = || {
        let entries = x_forwarded_for.iter().rev().flat_map(|v| v.rsplit(|b| *b == b','));
        client(&trusted, entries.map(x_forwarded_for_address))
    };
    let by_forwarded = || {
        let elements = forwarded.iter().rev().flat_map(|value| elements_from_right(value));
        client(&trusted, elements.map(forwarded_address))
    };
    match (is_present(x_forwarded_for), is_present(forwarded)) {
        (false, false) => None,
        (true, false) => Some(by_x_forwarded_for()),
        (false, true) => Some(by_forwarded()),
        // If they differ, the proxy did not write one of them, and nobody knows which.
        (true, true) => Some(by_x_forwarded_for().filter(|one| by_forwarded() == Some(*one))),
    }
}

/// Whether a header has content. A blank one counts as missing.
fn is_present(values: &[&[u8]]) -> bool {
    values.iter().any(|value| value.iter().any(|b| !is_blank(*b)))
}

/// The client, given the addresses of a chain from right to left. If one of them can't be read,
/// nobody knows who wrote those beyond it, and the client is unknown.
fn client(
    trusted: impl Fn(IpAddr) -> bool,
    chain: impl Iterator<Item = Option<IpAddr>>,
) -> Option<IpAddr> {
    let mut leftmost = None;
    for (passed, entry) in chain.enumerate() {
        if passed == MAX_ENTRIES {
            return None;
        }
        let address = entry?.to_canonical();
        if !trusted(address) {
            return Some(address);
        }
        leftmost = Some(address);
    }
    leftmost
}

/// An entry of `X-Forwarded-For`: an address, with or without a port.
fn x_forwarded_for_address(entry: &[u8]) -> Option<IpAddr> {
    let entry = trimmed(entry);
    if let Some(bare) = parsed::<Ipv6Addr>(entry) {
        return Some(bare.into());
    }
    let (address, port) = address_and_port(entry)?;
    port.is_none_or(is_port).then_some(address)
}

/// The address in `for` of an element of `Forwarded` (RFC 7239). `None` if the element is not
/// written by the grammar: it might mean anything.
fn forwarded_address(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    let mut rest = trimmed(element);
    while !rest.is_empty() {
        // The grammar allows empty pairs.
        if !rest.starts_with(b";") {
            let (name, value);
            (name, rest) = token(rest)?;
            (value, rest) = token_or_quoted(rest.strip_prefix(b"=")?)?;
            if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
                return None;
            }
            rest = trimmed_start(rest);
            if rest.is_empty() {
                break;
            }
        }
        rest = trimmed_start(rest.strip_prefix(b";")?);
    }
    let (address, port) = address_and_port(node?)?;
    port.is_none_or(|port| is_port(port) || is_hidden(port)).then_some(address)
}

/// The elements of a value of `Forwarded` from right to left.
fn elements_from_right(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let (before, element) = match last_comma(value) {
            Some(comma) => (Some(&value[..comma]), &value[comma + 1..]),
            None => (None, value),
        };
        rest = before;
        Some(element)
    })
}

/// The place of the rightmost comma that is not quoted, read from the right.
fn last_comma(value: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    for (at, byte) in value.iter().enumerate().rev() {
        match byte {
            b',' if !is_quoted => return Some(at),
            // From the right, the mark that closes a string comes first. After it, a mark that
            // follows a backslash is escaped, and the mark that opens the string follows an
            // equals sign.
            b'"' if is_quoted => is_quoted = value[..at].ends_with(b"\\"),
            b'"' => is_quoted = true,
            _ => {}
        }
    }
    None
}

/// Splits off a token.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_token_byte = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let end = text.iter().position(|b| !is_token_byte(b)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Splits off a token, or the text between quotation marks. Backslashes in it stay: no address
/// has any.
fn token_or_quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else { return token(text) };
    let mut is_escaped = false;
    let end = quoted.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some((&quoted[..end], &quoted[end + 1..]))
}

/// Splits `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]` and `[2001:db8::1]:80`.
fn address_and_port(text: &[u8]) -> Option<(IpAddr, Option<&[u8]>)> {
    let is_bracketed = text.starts_with(b"[");
    let end = if is_bracketed {
        text.iter().position(|b| *b == b']')? + 1
    } else {
        text.iter().position(|b| *b == b':').unwrap_or(text.len())
    };
    let (address, rest) = text.split_at(end);
    let address = if is_bracketed {
        parsed::<Ipv6Addr>(address.get(1..end - 1)?)?.into()
    } else {
        parsed::<Ipv4Addr>(address)?.into()
    };
    if rest.is_empty() {
        return Some((address, None));
    }
    Some((address, Some(rest.strip_prefix(b":")?)))
}

/// Reads an address. Texts that are too long for any address are not looked at.
fn parsed<T: FromStr>(text: &[u8]) -> Option<T> {
    const LONGEST: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
    if text.len() > LONGEST {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

fn is_port(text: &[u8]) -> bool {
    (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

/// Whether this is a name that a proxy writes to hide an address.
fn is_hidden(text: &[u8]) -> bool {
    matches!(text, [b'_', name @ ..] if !name.is_empty()
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    const PROXY: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Proxies are those of 10.0.0.0/8 and fd00::/16.
    fn is_proxy(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.segments()[0] == 0xfd00,
        }
    }

    fn bytes<'a>(values: &[&'a str]) -> Vec<&'a [u8]> {
        values.iter().map(|value| value.as_bytes()).collect()
    }

    fn behind_proxy(x_forwarded_for: &[&str], forwarded: &[&str]) -> Option<IpAddr> {
        client_address(Some(ip(PROXY)), is_proxy, &bytes(x_forwarded_for), &bytes(forwarded))
    }

    fn by_x_forwarded_for(values: &[&str]) -> Option<IpAddr> {
        behind_proxy(values, &[])
    }

    fn by_forwarded(values: &[&str]) -> Option<IpAddr> {
        behind_proxy(&[], values)
    }

    #[test]
    fn without_a_trusted_peer_headers_mean_nothing() {
        let headers: &[&[u8]] = &[b"203.0.113.7"];
        let peer = |peer, trusted: bool| client_address(peer, |_| trusted, headers, &[]);
        assert_eq!(peer(None, true), None);
        assert_eq!(peer(None, false), None);
        assert_eq!(peer(Some(ip("192.0.2.1")), false), Some(ip("192.0.2.1")));
        assert_eq!(peer(Some(ip("::ffff:192.0.2.1")), false), Some(ip("192.0.2.1")));
        assert_eq!(peer(Some(ip("192.0.2.1")), true), Some(ip("203.0.113.7")));
        let garbage: &[&[u8]] = &[b"\xff,,", b""];
        assert_eq!(
            client_address(Some(ip("192.0.2.1")), |_| false, garbage, garbage),
            Some(ip("192.0.2.1"))
        );
    }

    #[test]
    fn a_proxy_that_says_nothing_is_the_client() {
        assert_eq!(behind_proxy(&[], &[]), Some(ip(PROXY)));
        for blank in [&[""][..], &["", " \t"], &[" ", "", "\t"]] {
            assert_eq!(behind_proxy(blank, &[]), Some(ip(PROXY)));
            assert_eq!(behind_proxy(&[], blank), Some(ip(PROXY)));
            assert_eq!(behind_proxy(blank, blank), Some(ip(PROXY)));
            assert_eq!(behind_proxy(&["192.0.2.1"], blank), Some(ip("192.0.2.1")));
            assert_eq!(behind_proxy(blank, &["for=192.0.2.1"]), Some(ip("192.0.2.1")));
        }
    }

    #[test]
    fn behind_a_proxy_without_an_address_only_headers_tell() {
        let client = |x: &[&str], f: &[&str]| client_behind_proxy(is_proxy, &bytes(x), &bytes(f));
        assert_eq!(client(&[], &[]), None);
        assert_eq!(client(&[" "], &[""]), None);
        assert_eq!(client(&["192.0.2.66, 203.0.113.7, 10.0.0.5"], &[]), Some(ip("203.0.113.7")));
        assert_eq!(client(&[], &["for=203.0.113.7"]), Some(ip("203.0.113.7")));
        assert_eq!(client(&["203.0.113.7"], &["for=192.0.2.66"]), None);
        assert_eq!(client(&["203.0.113.7, unknown"], &[]), None);
    }

    #[test]
    fn the_first_untrusted_address_from_the_right() {
        for (values, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["192.0.2.1,10.0.0.3,10.0.0.2"], "192.0.2.1"),
            (&["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
            (&["10.0.0.9, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["198.51.100.9", "192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.9, 192.0.2.1", "10.0.0.3", "10.0.0.2"], "192.0.2.1"),
            (&["198.51.100.9", "192.0.2.1, 10.0.0.3"], "192.0.2.1"),
            // Anything may be on the left of the client.
            (&["unknown, 192.0.2.1"], "192.0.2.1"),
            (&["", "192.0.2.1"], "192.0.2.1"),
            (&["\u{0}\"[,,;=é", ",192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            // All are trusted.
            (&["10.0.0.3"], "10.0.0.3"),
            (&["10.0.0.4, 10.0.0.3", "10.0.0.2"], "10.0.0.4"),
            (&["fd00::2, ::ffff:10.0.0.3"], "fd00::2"),
        ] {
            assert_eq!(by_x_forwarded_for(values), Some(ip(expected)), "{values:?}");
        }
    }

    #[test]
    fn entries_that_are_no_addresses_are_never_passed() {
        for values in [
            &["unknown"][..],
            &["_hidden"],
            &["192.0.2.1, unknown"],
            &["192.0.2.1, _hidden, 10.0.0.2"],
            &["192.0.2.1, , 10.0.0.2"],
            &["192.0.2.1,"],
            &["192.0.2.1, 10.0.0.2,"],
            &[","],
            &[",10.0.0.2"],
            &["192.0.2.1", ""],
            &["192.0.2.1", " ", "10.0.0.2"],
            &["", "10.0.0.2"],
            &["garbage, 10.0.0.2"],
        ] {
            assert_eq!(by_x_forwarded_for(values), None, "{values:?}");
        }
    }

    #[test]
    fn forms_of_x_forwarded_for() {
        for (entry, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            (" \t192.0.2.1\t ", "192.0.2.1"),
            ("192.0.2.1:5678", "192.0.2.1"),
            ("192.0.2.1:0", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::1", "::1"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("[::1]", "::1"),
            (" [2001:db8::1]:65535 ", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:c000:201]:80", "192.0.2.1"),
            (
                "2001:db8:ffff:ffff:ffff:ffff:255.255.255.255",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(by_x_forwarded_for(&[entry]), Some(ip(expected)), "{entry:?}");
        }
        for entry in [
            "192.0.2",
            "192.0.2.256",
            "192.0.2.01",
            "0xc0000201",
            "3221225985",
            "192.0.2.1:",
            "192.0.2.1:http",
            "192.0.2.1:+80",
            "192.0.2.1:123456",
            "192.0.2.1:_x",
            "192.0.2.1:80:80",
            "192.0.2.1 80",
            "192.0.2.1/32",
            "192.0.2.1\n",
            "192.0.2.1\u{0}",
            "192.0.2.1;",
            "\u{a0}192.0.2.1",
            "\"192.0.2.1\"",
            "for=192.0.2.1",
            "[192.0.2.1]",
            "[]",
            "[",
            "]",
            "[::1",
            "::1]",
            "[[::1]]",
            "[::1]80",
            "[::1]:",
            "[::1] :80",
            "[ ::1]",
            "fe80::1%eth0",
            "[fe80::1%1]",
            ":",
            ":80",
            "1:2:3:4:5:6:7:8:9",
            "é",
            "localhost",
        ] {
            assert_eq!(by_x_forwarded_for(&[entry]), None, "{entry:?}");
        }
    }

    #[test]
    fn forms_of_forwarded() {
        for (element, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            (" For=192.0.2.1\t", "192.0.2.1"),
            ("FOR=\"192.0.2.1\"", "192.0.2.1"),
            ("for=\"192.0.2.1:4711\"", "192.0.2.1"),
            ("for=\"192.0.2.1:_port\"", "192.0.2.1"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            ("for=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1"),
            ("proto=http; by=203.0.113.43 ;\tFor=192.0.2.1", "192.0.2.1"),
            (";;for=192.0.2.1; ;", "192.0.2.1"),
            ("by=unknown;for=192.0.2.1", "192.0.2.1"),
            ("host=\"a,b;for=198.51.100.1\";for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1;host=\"a, for=198.51.100.1\"", "192.0.2.1"),
            ("for=192.0.2.1;host=\"\\\", for=198.51.100.1;\\\\\"", "192.0.2.1"),
            ("for=192.0.2.1;host=\"\"", "192.0.2.1"),
            ("x-for=198.51.100.1;for=192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(by_forwarded(&[element]), Some(ip(expected)), "{element:?}");
        }
        for element in [
            "192.0.2.1",
            "for",
            "for=",
            "for=\"\"",
            "for=unknown",
            "for=_hidden",
            "for=\"_SEVKISEK:80\"",
            "for=\"unknown\"",
            "proto=http",
            "proto=http;by=192.0.2.1",
            "xfor=192.0.2.1",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1;for=192.0.2.1",
            "for=192.0.2.1;FOR=198.51.100.1",
            "for=192.0.2.1 proto=http",
            "for=192.0.2.1;proto",
            "for=192.0.2.1;proto=",
            "for=192.0.2.1;=http",
            "for=192.0.2.1;a b=c",
            "for=192.0.2.1:4711",
            "for=[2001:db8::1]",
            "for=2001:db8::1",
            "for=\"2001:db8::1\"",
            "for=\"[2001:db8::1\"",
            "for=\" 192.0.2.1\"",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:_\"",
            "for=\"192.0.2.1:_a b\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=\"192.0.2.1\\\"",
            "for=\"192.0.2.\\1\"",
            "for=\"192.0.2.1\"x",
            "for='192.0.2.1'",
            "for=192.0.2.1\n",
            "for==192.0.2.1",
            "\"for=192.0.2.1\"",
            "for=192.0.2.1;host=\"a",
            "é=a;for=192.0.2.1",
        ] {
            assert_eq!(by_forwarded(&[element]), None, "{element:?}");
        }
    }

    #[test]
    fn chains_of_forwarded() {
        for (values, expected) in [
            (&["for=192.0.2.1, for=10.0.0.2"][..], Some("192.0.2.1")),
            (&["for=198.51.100.9", "for=192.0.2.1;by=a,for=10.0.0.2"], Some("192.0.2.1")),
            (&["for=192.0.2.1", "for=\"10.0.0.2:80\";host=\"a,b\""], Some("192.0.2.1")),
            (&["for=10.0.0.3, for=\"[fd00::1]\""], Some("10.0.0.3")),
            (&["for=192.0.2.1, proto=http"], None),
            (&["for=192.0.2.1, for=unknown, for=10.0.0.2"], None),
            (&["for=192.0.2.1, , for=10.0.0.2"], None),
            (&["for=192.0.2.1,"], None),
            (&[","], None),
            // A client's quotation mark must not make the proxy's address part of a string.
            (&["for=\"198.51.100.9, for=192.0.2.1"], Some("192.0.2.1")),
            (&["for=\", for=\"192.0.2.1\""], Some("192.0.2.1")),
            (&["for=\"\\, for=\"192.0.2.1\", for=10.0.0.2"], Some("192.0.2.1")),
            (&["for=\"", "for=192.0.2.1"], Some("192.0.2.1")),
            // Nor may it add an address.
            (&["for=\"192.0.2.1, for=198.51.100.9\""], None),
            (&["for=198.51.100.9, for=\"192.0.2.1, for=10.0.0.2\""], None),
            (&["for=\"192.0.2.1", "for=10.0.0.2\""], None),
        ] {
            assert_eq!(by_forwarded(values), expected.map(ip), "{values:?}");
        }
    }

    #[test]
    fn two_headers_must_agree() {
        for (x_forwarded_for, forwarded, expected) in [
            ("192.0.2.1", "for=192.0.2.1", Some("192.0.2.1")),
            ("198.51.100.9, 192.0.2.1", "for=\"192.0.2.1:80\", for=10.0.0.2", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", "for=192.0.2.1", Some("192.0.2.1")),
            ("10.0.0.2", "for=10.0.0.2", Some("10.0.0.2")),
            ("192.0.2.1", "for=198.51.100.9", None),
            ("192.0.2.1", "for=10.0.0.2", None),
            ("192.0.2.1", "for=unknown", None),
            ("unknown", "for=192.0.2.1", None),
            ("unknown", "for=unknown", None),
            ("192.0.2.1", ",", None),
        ] {
            assert_eq!(
                behind_proxy(&[x_forwarded_for], &[forwarded]),
                expected.map(ip),
                "{x_forwarded_for} / {forwarded}"
            );
        }
    }

    #[test]
    fn mapped_addresses_are_their_ipv4_selves() {
        let asked = RefCell::new(Vec::new());
        let trusted = |address| {
            asked.borrow_mut().push(address);
            is_proxy(address)
        };
        let found = client_address(
            Some(ip("::ffff:10.0.0.1")),
            trusted,
            &[b"::ffff:192.0.2.1, ::ffff:10.0.0.2"],
            &[b"for=\"[::ffff:192.0.2.1]\""],
        );
        assert_eq!(found, Some(ip("192.0.2.1")));
        let expected = ["10.0.0.1", "10.0.0.2", "192.0.2.1", "192.0.2.1"].map(ip);
        assert_eq!(asked.into_inner(), expected);
    }

    #[test]
    fn chains_are_followed_so_far_and_no_further() {
        for client in ["192.0.2.1", "10.0.0.3"] {
            for (proxies, expected) in [(62, true), (63, true), (64, false), (65, false)] {
                let expected = expected.then(|| ip(client));
                let mut entries = vec![client];
                entries.extend(std::iter::repeat_n("10.0.0.2", proxies));
                let elements: Vec<String> = entries.iter().map(|e| format!("for={e}")).collect();
                let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
                assert_eq!(by_x_forwarded_for(&entries), expected, "{client}, {proxies}");
                assert_eq!(by_x_forwarded_for(&[&entries.join(", ")]), expected);
                assert_eq!(by_forwarded(&elements), expected);
                assert_eq!(by_forwarded(&[&elements.join(",")]), expected);
            }
        }
    }

    /// Texts that would take hours, or all of the stack, if bytes were read more than a few times.
    #[test]
    #[cfg_attr(miri, ignore = "it takes hours to interpret")]
    fn megabytes_of_garbage() {
        const SIZE: usize = 1 << 20;
        for unit in [
            " ",
            ",",
            ";",
            "\"",
            "\\",
            "\\\"",
            "\",",
            "\"\"",
            "=",
            "[",
            "]",
            ":",
            "a",
            "a=b;",
            "a=a,",
            "for=",
            "\u{0}",
            "é",
            "1.",
            "10.0.0.2,",
            "for=10.0.0.2,",
            "a=\"\\\"\";",
            "; ",
            "\t,",
        ] {
            for (before, after) in [("", ""), ("for=\"", "\""), ("\"", ",10.0.0.2"), ("", ";for=")]
            {
                let garbage = format!("{before}{}{after}", unit.repeat(SIZE / unit.len()));
                let is_blank = garbage.trim().is_empty();
                let expected = is_blank.then(|| ip(PROXY));
                assert_eq!(by_x_forwarded_for(&[&garbage]), expected, "{before}{unit}…{after}");
                assert_eq!(by_forwarded(&[&garbage]), expected, "{before}{unit}…{after}");
            }
        }
        let values = vec![&b""[..]; SIZE];
        assert_eq!(client_address(Some(ip(PROXY)), is_proxy, &values, &values), Some(ip(PROXY)));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 3]>().prop_map(|[b, c, d]| IpAddr::from([10, b, c, d])),
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped().into()),
            any::<u16>().prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
            any::<[u16; 8]>().prop_map(IpAddr::from),
        ]
    }

    /// An address as proxies write it, in both headers.
    fn written() -> impl Strategy<Value = (IpAddr, String, String)> {
        let port = proptest::option::of(any::<u16>());
        let spaces = ["[ \t]{0,2}", "[ \t]{0,2}"];
        let more = prop_oneof![
            Just(String::new()),
            Just(";proto=https".to_owned()),
            quoted().prop_map(|quoted| format!("; host={quoted}")),
        ];
        (address(), port, spaces, more).prop_map(|(address, port, [before, after], more)| {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let node = match address {
                IpAddr::V4(v4) => format!("{v4}{port}"),
                IpAddr::V6(v6) => format!("[{v6}]{port}"),
            };
            let entry = if port.is_empty() { address.to_string() } else { node.clone() };
            (
                address.to_canonical(),
                format!("{before}{entry}{after}"),
                format!("{before}for=\"{node}\"{more}{after}"),
            )
        })
    }

    /// A quoted string with anything in it.
    fn quoted() -> impl Strategy<Value = String> {
        "([ -!#-\\[\\]-~]|[,;=]|\\\\[\"\\\\,]){0,8}".prop_map(|inner| format!("\"{inner}\""))
    }

    /// What attackers send: any bytes, and often those with a meaning.
    fn forged() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..100),
            "([\",;=\\\\ \t\\[\\]:]|for=|192\\.0\\.2\\.1|10\\.0\\.0\\.2|unknown){0,20}"
                .prop_map(Vec::from),
        ]
    }

    /// The values of a header, with the entries distributed over them at random.
    fn values(entries: &[String], breaks: u64) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            match values.last_mut() {
                Some(value) if breaks >> (at % 64) & 1 == 0 => *value = format!("{value},{entry}"),
                _ => values.push(entry.clone()),
            }
        }
        values
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_taken_without_panic(
            peer in address(),
            x_forwarded_for in proptest::collection::vec(forged(), 0..4),
            forwarded in proptest::collection::vec(forged(), 0..4),
        ) {
            let one: Vec<&[u8]> = x_forwarded_for.iter().map(Vec::as_slice).collect();
            let other: Vec<&[u8]> = forwarded.iter().map(Vec::as_slice).collect();
            for (one, other) in [(&one[..], &other[..]), (&one, &[]), (&[], &other)] {
                for trusted in [is_proxy, |_| true] {
                    if let Some(found) = client_address(Some(peer), trusted, one, other) {
                        prop_assert_eq!(found, found.to_canonical());
                    }
                }
            }
        }

        #[test]
        fn chains_are_read_as_they_are_written(
            chain in proptest::collection::vec(written(), 1..8),
            breaks in any::<u64>(),
        ) {
            let addresses = || chain.iter().map(|(address, ..)| *address);
            let expected = addresses().rev().find(|a| !is_proxy(*a)).or(addresses().next());
            let entries: Vec<String> = chain.iter().map(|(_, entry, _)| entry.clone()).collect();
            let elements: Vec<String> = chain.iter().map(|(.., e)| e.clone()).collect();
            let (entries, elements) = (values(&entries, breaks), values(&elements, !breaks));
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            prop_assert_eq!(by_x_forwarded_for(&entries), expected);
            prop_assert_eq!(by_forwarded(&elements), expected);
            prop_assert_eq!(behind_proxy(&entries, &elements), expected);
        }

        #[test]
        fn nothing_on_the_left_of_the_client_matters(
            client in written().prop_filter("the client is no proxy", |(a, ..)| !is_proxy(*a)),
            proxies in proptest::collection::vec(written(), 0..4),
            forged in proptest::collection::vec(forged(), 1..4),
        ) {
            let (address, mut entries, mut elements) = client;
            for (_, entry, element) in proxies.iter().filter(|(a, ..)| is_proxy(*a)) {
                entries = format!("{entries},{entry}");
                elements = format!("{elements},{element}");
            }
            for (is_forwarded, written) in [(false, entries), (true, elements)] {
                // In the same value, in separate values, and in both.
                let before = forged.join(&b',');
                let mut same: Vec<u8> = before.clone();
                same.extend(b",");
                same.extend(written.as_bytes());
                let mut own: Vec<&[u8]> = forged.iter().map(Vec::as_slice).collect();
                own.push(written.as_bytes());
                let both: [&[u8]; 2] = [&before, &same];
                for values in [&[&same[..]][..], &own, &both] {
                    let (one, other): (&[&[u8]], &[&[u8]]) =
                        if is_forwarded { (&[], values) } else { (values, &[]) };
                    let found = client_address(Some(ip(PROXY)), is_proxy, one, other);
                    prop_assert_eq!(found, Some(address));
                }
            }
        }

        #[test]
        fn quoted_commas_do_not_split(
            elements in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![quoted(), "[a-z;= ]{0,5}"], 0..4),
                1..5,
            ),
        ) {
            let elements: Vec<String> = elements.iter().map(|parts| parts.concat()).collect();
            let value = elements.join(",");
            let split: Vec<&[u8]> = elements_from_right(value.as_bytes()).collect();
            let expected: Vec<&[u8]> = elements.iter().rev().map(|e| e.as_bytes()).collect();
            prop_assert_eq!(split, expected);
        }
    }
}
