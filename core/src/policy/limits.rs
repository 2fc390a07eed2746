//! Named rate limits, and the text that they are stored as.
//!
//! A limit is a line, `1000/1 hour/2000/name`: so many calls a window, so many at once. The window
//! is written in the largest unit that divides it. The name comes last, because it may hold
//! anything but a line's end. A limit of another unit names it, `1000 tokens/1 hour/2000/name`, and
//! one that counts each of many separately says of what, `1000 calls subject/1 hour/2000/name`. A limit
//! of transactions in progress has a word in place of the window, `5/transaction/5/name`.
//!
//! A key that a limited key gives shares the limits of that key: its calls are counted there too.
//! So more keys don't give more calls. A shared limit is a line that begins with the id of the
//! key that has the limit, `ID/1000/1 hour/2000/name`.

use super::name::is_name;
use super::weights::{CALLS, is_unit};
use crate::buckets::{NOBODY, Owner, owner};
use crate::claims::Bound;
use crate::gcra::Rate;
use crate::siphash::SipHasher;
use crate::slots::MAX_CONCURRENT;
use std::net::IpAddr;

/// The most limits of a key, a tenant, a keyspace or a route.
pub const MAX_LIMITS: usize = 16;
/// The most limits that a key may share with the keys that gave it.
pub const MAX_SHARED: usize = 64;
/// The longest name of a limit, in characters.
const MAX_NAME: usize = 63;

/// A limit. Its name is in the stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<'a> {
    pub name: &'a [u8],
    pub bound: Bound,
    pub unit: &'a [u8],
    pub per: Option<Per>,
}

impl Limit<'_> {
    /// Whether it can let more pass than another one, or counts something else.
    fn exceeds(&self, other: &Limit) -> bool {
        self.unit != other.unit || self.per != other.per || self.bound.exceeds(other.bound)
    }
}

/// What a limit counts separately, each in its own bucket. Otherwise all requests of whoever has the
/// limit are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    Key = 1,
    Tenant = 2,
    Member = 3,
    Subject = 4,
    Address = 5,
}

impl Per {
    pub const ALL: [Per; 5] = [Per::Key, Per::Tenant, Per::Member, Per::Subject, Per::Address];

    pub fn name(self) -> &'static str {
        match self {
            Per::Key => "key",
            Per::Tenant => "tenant",
            Per::Member => "member",
            Per::Subject => "subject",
            Per::Address => "address",
        }
    }

    pub fn from_name(name: &[u8]) -> Option<Per> {
        Per::ALL.into_iter().find(|per| per.name().as_bytes() == name)
    }
}

pub const PER_RULE: &str = "must be key, tenant, member, subject or address";

/// The part of an address that is counted: a client can have all addresses of a /64 of IPv6.
pub fn counted_network(address: IpAddr) -> ([u8; 8], usize) {
    let mut network = [0; 8];
    let length = match address.to_canonical() {
        IpAddr::V4(address) => {
            network[..4].copy_from_slice(&address.octets());
            4
        }
        IpAddr::V6(address) => {
            network.copy_from_slice(&address.octets()[..8]);
            8
        }
    };
    (network, length)
}

/// The site of an address, to own its bucket: the /48 of IPv6, which a single client may have. So its
/// 65,536 networks leave room for others.
pub fn site(address: IpAddr, mut hasher: SipHasher) -> Owner {
    match counted_network(address) {
        ([site @ .., _, _], 8) => {
            hasher.sized(&site);
            owner(hasher.finish())
        }
        _ => NOBODY,
    }
}

const UNITS: [(&str, u64); 6] = [
    ("day", 86_400_000_000),
    ("hour", 3_600_000_000),
    ("minute", 60_000_000),
    ("second", 1_000_000),
    ("millisecond", 1_000),
    ("microsecond", 1),
];

pub fn is_limit_name(name: &str) -> bool {
    is_name(name) && name.chars().count() <= MAX_NAME
}

pub const LIMIT_NAME_RULE: &str =
    "must have 1 to 63 characters, no control characters and no space at either end";

/// The word in place of the window.
const TRANSACTION: &str = "transaction";

/// The line of a limit.
pub fn line(name: &str, bound: Bound, unit: &str, per: Option<Per>) -> String {
    let counted = match per {
        Some(per) => format!(" {unit} {}", per.name()),
        None if unit.as_bytes() == CALLS => String::new(),
        None => format!(" {unit}"),
    };
    let (window, burst) = match bound {
        Bound::Rate(rate) => (window(rate), rate.burst()),
        Bound::Concurrent(limit) => (TRANSACTION.into(), limit),
    };
    format!("{}{counted}/{window}/{burst}/{name}", bound.limit())
}

/// The window as it is shown.
pub fn window(rate: Rate) -> String {
    let window = rate.window();
    let (unit, length) = UNITS
        .into_iter()
        .find(|(_, length)| window.is_multiple_of(*length))
        .unwrap_or(("microsecond", 1));
    let count = window / length;
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{s}")
}

/// The limits of a stored text. `None` stands for a line that can't be read. It must not count as
/// no limit.
pub fn stored(text: &[u8]) -> impl Iterator<Item = Option<Limit<'_>>> {
    text.split(|byte| *byte == b'\n').map(read)
}

/// A limit, and the key that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared<'a> {
    pub key: [u8; 16],
    pub limit: Limit<'a>,
}

/// The shared limits of a stored text, likewise.
pub fn stored_shared(text: &[u8]) -> impl Iterator<Item = Option<Shared<'_>>> {
    text.split(|byte| *byte == b'\n').map(|line| {
        let (key, limit) = line.split_at_checked(ID_LEN)?;
        Some(Shared { key: read_id(key)?, limit: read(limit.strip_prefix(b"/")?)? })
    })
}

/// The limits that a key is held to, in their stored form.
#[derive(Clone, Copy)]
pub struct HeldLimits<'a> {
    /// The key, or the first of the keys that were rotated into it.
    pub key: [u8; 16],
    pub own: Option<&'a str>,
    pub shared: Option<&'a str>,
}

impl<'a> HeldLimits<'a> {
    /// The limits that the keys that it gives share, in their stored form.
    pub fn handed_on(&self) -> Option<String> {
        let id = shown_id(&self.key);
        let shared = self.shared.into_iter().flat_map(str::lines).map(String::from);
        let own = self.own.into_iter().flat_map(str::lines).map(|line| format!("{id}/{line}"));
        let lines: Vec<String> = shared.chain(own).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn all(&self) -> impl Iterator<Item = Option<Shared<'a>>> {
        let key = self.key;
        let own = self.own.into_iter().flat_map(|text| stored(text.as_bytes()));
        let shared = self.shared.into_iter().flat_map(|text| stored_shared(text.as_bytes()));
        own.map(move |limit| limit.map(|limit| Shared { key, limit })).chain(shared)
    }

    /// Whether each limit of `other` limits this key too, counted in the same bucket and at a rate
    /// that is no higher.
    pub fn is_within(&self, other: &HeldLimits) -> bool {
        let held: Vec<Shared> = self.all().flatten().collect();
        other.all().all(|limit| {
            limit.is_some_and(|other| {
                held.iter().any(|held| {
                    held.key == other.key
                        && held.limit.name == other.limit.name
                        && !held.limit.exceeds(&other.limit)
                })
            })
        })
    }
}

/// The length of an id as text.
const ID_LEN: usize = 36;

fn shown_id(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(ID_LEN);
    for (index, byte) in id.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn read_id(text: &[u8]) -> Option<[u8; 16]> {
    let mut digits = text.iter().filter(|byte| **byte != b'-').map(|byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    });
    let mut id = [0; 16];
    for byte in &mut id {
        *byte = (digits.next()?? << 4) | digits.next()??;
    }
    digits.next().is_none().then_some(id)
}

fn read(line: &[u8]) -> Option<Limit<'_>> {
    let (limit, rest) = leading_number(line)?;
    let (counted, rest) = split_at_slash(rest)?;
    let (window, rest) = split_at_slash(rest)?;
    let (burst, rest) = leading_number(rest)?;
    let name = rest.strip_prefix(b"/").filter(|name| !name.is_empty())?;
    let (limit, burst) = (u32::try_from(limit).ok()?, u32::try_from(burst).ok()?);
    let (unit, per) = if counted.is_empty() { (CALLS, None) } else { unit_and_per(counted)? };
    let bound = if window == TRANSACTION.as_bytes() {
        let is_good = limit == burst && unit == CALLS && (1..=MAX_CONCURRENT).contains(&limit);
        is_good.then_some(Bound::Concurrent(limit))?
    } else {
        Bound::Rate(Rate::new(limit, length(window)?, burst)?)
    };
    Some(Limit { name, bound, unit, per })
}

/// The unit and what is counted separately, as they follow a number.
fn unit_and_per(text: &[u8]) -> Option<(&[u8], Option<Per>)> {
    let mut words = text.strip_prefix(b" ")?.splitn(2, |byte| *byte == b' ');
    let unit = words.next().filter(|unit| is_unit(unit))?;
    let per = match words.next() {
        Some(per) => Some(Per::from_name(per)?),
        None => None,
    };
    Some((unit, per))
}

/// The length of a window.
pub(super) fn length(text: &[u8]) -> Option<u64> {
    let (count, unit) = leading_number(text)?;
    let unit = unit.strip_prefix(b" ")?;
    let unit = unit.strip_suffix(b"s").unwrap_or(unit);
    let (_, length) = UNITS.iter().find(|(name, _)| name.as_bytes() == unit)?;
    count.checked_mul(*length)
}

/// The number at the beginning of a text, and the rest.
pub(super) fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    /// A number with as many digits always fits.
    const MOST_DIGITS: usize = 19;
    let (mut number, mut rest) = (0u64, text);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = after;
    }
    let digits = text.len() - rest.len();
    (1..=MOST_DIGITS).contains(&digits).then_some((number, rest))
}

/// Splits a line at its first slash.
fn split_at_slash(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = text.iter().position(|byte| *byte == b'/')?;
    Some((text.get(..slash)?, text.get(slash + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcra::{MAX_CALLS, MAX_WINDOW, MIN_WINDOW};
    use proptest::prelude::*;

    fn held<'a>(key: u8, own: Option<&'a str>, shared: Option<&'a str>) -> HeldLimits<'a> {
        HeldLimits { key: [key; 16], own, shared }
    }

    #[test]
    fn whoever_gives_holds_the_given_as_tightly() {
        let own = held(1, Some("100/1 second/100/a\n10/1 day/10/b"), None);
        for (given, within) in [
            ("100/1 second/100/a\n10/1 day/10/b", true),
            ("50/1 second/100/a\n10/2 days/5/b\n1/1 second/1/c", true),
            ("6000/1 minute/100/a\n10/1 day/10/b", true),
            ("100/1 second/101/a\n10/1 day/10/b", false),
            ("101/1 second/100/a\n10/1 day/10/b", false),
            ("10/1 day/10/b", false),
            ("1/1 day/1/other", false),
            // A limit that counts something else is another one.
            ("100 tokens/1 second/100/a\n10/1 day/10/b", false),
            ("100 calls subject/1 second/100/a\n10/1 day/10/b", false),
            ("100 calls key/1 second/100/a\n10/1 day/10/b", false),
        ] {
            assert_eq!(held(1, Some(given), None).is_within(&own), within, "{given}");
            // The same limits of another key have other buckets.
            assert!(!held(2, Some(given), None).is_within(&own), "{given}");
        }
        assert!(!held(1, None, None).is_within(&own));
        assert!(held(1, None, None).is_within(&held(2, None, None)));
        assert!(!held(1, Some("100/1 second/100/a"), None).is_within(&held(
            1,
            Some("unreadable"),
            None
        )));
    }

    #[test]
    fn what_is_given_is_counted_with_whoever_gave_it() {
        let root = held(1, Some("9/1 day/9/a"), None);
        let of_root = root.handed_on();
        let child = held(2, Some("5/1 day/5/a\n1/1 day/1/b"), of_root.as_deref());
        let of_child = child.handed_on();
        assert_eq!(
            of_child.as_deref(),
            Some(
                "01010101-0101-0101-0101-010101010101/9/1 day/9/a\n\
                 02020202-0202-0202-0202-020202020202/5/1 day/5/a\n\
                 02020202-0202-0202-0202-020202020202/1/1 day/1/b"
            )
        );
        let grandchild = held(3, None, of_child.as_deref());
        assert_eq!(grandchild.handed_on(), of_child);
        for (given, delegator) in [(&child, &root), (&grandchild, &root), (&grandchild, &child)] {
            assert!(given.is_within(delegator));
        }
        assert!(!root.is_within(&child) && !root.is_within(&grandchild));
        assert!(!held(4, child.own, None).is_within(&root));
        assert_eq!(held(4, None, None).handed_on(), None);
    }

    #[test]
    fn shared_lines_that_are_none() {
        let id = "01010101-0101-0101-0101-010101010101";
        for bad in [
            "",
            "1/1 day/1/x",
            &id[1..],
            id,
            &format!("{id}1/1 day/1/x"),
            &format!("{id}/1/1 day/1/"),
            &format!("{}g/1/1 day/1/x", &id[1..]),
            &format!("{}/1/1 day/1/x", id.replace('-', "0")),
        ] {
            assert!(stored_shared(bad.as_bytes()).any(|line| line.is_none()), "{bad}");
        }
        let line = format!("{id}/1/1 day/1/x");
        let read = stored_shared(line.as_bytes()).next().unwrap().unwrap();
        assert_eq!((read.key, read.limit.name), ([1; 16], &b"x"[..]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            limits in proptest::collection::vec(
                ("[ -~é]{1,63}", 1..=MAX_CALLS, MIN_WINDOW..=MAX_WINDOW, 1..=MAX_CALLS, "[a-z][a-z0-9_-]{0,30}",
                 proptest::option::of(proptest::sample::select(&Per::ALL))),
                1..5),
        ) {
            let rates: Vec<Rate> = limits.iter().map(|(_, l, w, b, ..)| Rate::new(*l, *w, *b).unwrap()).collect();
            let lines: Vec<String> =
                limits.iter().zip(&rates).map(|((name, .., unit, per), rate)| line(name, Bound::Rate(*rate), unit, *per)).collect();
            let text = lines.join("\n");
            let read: Vec<_> = stored(text.as_bytes()).map(Option::unwrap).collect();
            prop_assert_eq!(read.len(), limits.len());
            for ((limit, rate), (name, .., unit, per)) in read.iter().zip(&rates).zip(&limits) {
                prop_assert_eq!(limit.name, name.as_bytes());
                prop_assert_eq!(limit.bound, Bound::Rate(*rate));
                prop_assert_eq!((limit.unit, limit.per), (unit.as_bytes(), *per));
            }
        }

        #[test]
        fn anything_else_is_read_as_unreadable(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(stored(&text).count() >= 1);
        }
    }

    #[test]
    fn windows_are_in_their_largest_unit() {
        let rate = |window| Bound::Rate(Rate::new(5, window, 6).unwrap());
        let shown = |window| line("x", rate(window), "calls", None);
        assert_eq!(shown(3_600_000_000), "5/1 hour/6/x");
        assert_eq!(shown(90_000_000), "5/90 seconds/6/x");
        assert_eq!(shown(604_800_000_000), "5/7 days/6/x");
        assert_eq!(shown(1_001), "5/1001 microseconds/6/x");
        assert_eq!(shown(1_000), "5/1 millisecond/6/x");
    }

    #[test]
    fn lines_that_are_none() {
        for bad in [
            "",
            "x",
            "1/1 hour/1",
            "1/1 hour/1/",
            "0/1 hour/1/x",
            "1/1 hour/0/x",
            "1/0 hours/1/x",
            "1/1 year/1/x",
            "1/1hour/1/x",
            "1/ hour/1/x",
            "-1/1 hour/1/x",
            "1/1 hour/9999999999/x",
            "1/99999999999999999999 days/1/x",
            "18446744073709551617/1 hour/1/x",
            "1/1 hour/18446744073709551617/x",
            "1/1 hour/1 /x",
            "1x/1 hour/1/x",
            "1tokens/1 hour/1/x",
            "1/1 microsecond/1/x",
            "a/1 hour/1/x",
            "1 /1 hour/1/x",
            "1 Tokens/1 hour/1/x",
            "1 tokens /1 hour/1/x",
            "1 tokens nobody/1 hour/1/x",
            "1 tokens key x/1 hour/1/x",
            "1  key/1 hour/1/x",
            "1/transaction/2/x",
            "1/transactions/1/x",
            "1001/transaction/1001/x",
            "1 tokens/transaction/1/x",
        ] {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
        let odd = read(b"1/2 hours/3/a/b c").unwrap();
        let rate = Bound::Rate(Rate::new(1, 7_200_000_000, 3).unwrap());
        assert_eq!((odd.name, odd.bound), (&b"a/b c"[..], rate));
    }

    #[test]
    fn units_and_what_is_counted_separately() {
        let rate = Bound::Rate(Rate::new(5, 1_000_000, 6).unwrap());
        let shown = |unit, per| line("x", rate, unit, per);
        assert_eq!(shown("calls", None), "5/1 second/6/x");
        assert_eq!(shown("tokens", None), "5 tokens/1 second/6/x");
        assert_eq!(shown("calls", Some(Per::Subject)), "5 calls subject/1 second/6/x");
        for per in Per::ALL {
            assert!(PER_RULE.contains(per.name()));
        }
    }

    #[test]
    fn transactions_in_progress() {
        for (limit, per, text) in [
            (5, None, "5/transaction/5/a/b"),
            (1000, Some(Per::Subject), "1000 calls subject/transaction/1000/a/b"),
        ] {
            let bound = Bound::Concurrent(limit);
            assert_eq!(line("a/b", bound, "calls", per), text);
            assert_eq!(
                read(text.as_bytes()),
                Some(Limit { name: b"a/b", bound, unit: CALLS, per })
            );
        }
        let own = held(1, Some("5/transaction/5/a"), None);
        for (given, within) in [
            ("5/transaction/5/a", true),
            ("4/transaction/4/a", true),
            ("6/transaction/6/a", false),
            ("5/1 day/5/a", false),
        ] {
            assert_eq!(held(1, Some(given), None).is_within(&own), within, "{given}");
        }
    }

    #[test]
    fn clients_of_a_network_of_ipv6_are_one() {
        let network = |address: &str| {
            let (network, length) = counted_network(address.parse().unwrap());
            network[..length].to_vec()
        };
        assert_eq!(network("192.0.2.7"), [192, 0, 2, 7]);
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
        assert_ne!(network("192.0.2.7"), network("192.0.2.8"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }

    #[test]
    fn networks_of_one_site_have_one_owner() {
        let owner = |address: &str| site(address.parse().unwrap(), SipHasher::new([1, 2]));
        assert_eq!(owner("2001:db8::1"), owner("2001:db8:0:ffff::1"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:1::1"));
        assert_eq!(owner("192.0.2.1"), NOBODY);
        assert_eq!(owner("::ffff:192.0.2.1"), NOBODY);
    }

    #[test]
    fn names() {
        for good in ["a", "per minute", "a/b", &"é".repeat(63)] {
            assert!(is_limit_name(good), "{good}");
        }
        for bad in ["", " a", "a\nb", &"x".repeat(64)] {
            assert!(!is_limit_name(bad), "{bad}");
        }
        assert!(LIMIT_NAME_RULE.contains(&format!("1 to {MAX_NAME} ")));
    }
}
