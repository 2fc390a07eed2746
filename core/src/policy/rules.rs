//! The rules of a decision, in their order.

use super::allowlist::Allowlists;
use super::scope::{HeldScopes, Required};
use super::verdict::Reason;
use crate::token::verify::Token;
use std::net::IpAddr;

/// Microseconds since an epoch. All moments have the same epoch.
pub type Instant = i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Secret,
    Publishable,
}

impl Kind {
    pub fn parse(name: &[u8]) -> Option<Kind> {
        match name {
            b"secret" => Some(Kind::Secret),
            b"publishable" => Some(Kind::Publishable),
            _ => None,
        }
    }
}

/// What a caller asks about a key.
pub struct Demand<'a> {
    /// The environment that the key must belong to.
    pub environment: Option<&'a [u8]>,
    /// The name of the least kind that is accepted. If no kind has this name, no key is accepted.
    pub kind: Option<&'a [u8]>,
    pub scopes: &'a dyn Required,
    pub address: Option<IpAddr>,
    pub now: Instant,
}

/// A key that was found, as the tables have it.
pub struct Found<'a> {
    pub environment: &'a [u8],
    pub kind: Option<Kind>,
    /// A revocation holds at any time: the clock of the server that revoked the key may be ahead
    /// of this one.
    pub revoked_at: Option<Instant>,
    pub expires_at: Option<Instant>,
    /// Why it is disabled, if it is.
    pub disabled: Option<Reason>,
    pub tenant_suspended: bool,
    pub owner_gone: bool,
    pub allowlists: Option<&'a dyn Allowlists>,
    /// The scopes of the key, narrowed by its token if there is one.
    pub held: HeldScopes<'a>,
    /// The token that was presented in place of the key.
    pub token: Option<&'a Token>,
}

/// A rule: its name, and a function that returns the reason to refuse, if any.
pub struct Rule {
    pub name: &'static str,
    pub refuses: fn(&Found, &Demand) -> Option<Reason>,
}

/// The rules about a key that was found in the keyspace. The first reason to refuse is the
/// answer.
pub const RULES: [Rule; 9] = [
    Rule { name: "environment", refuses: environment },
    Rule { name: "revocation", refuses: revocation },
    Rule { name: "expiry", refuses: expiry },
    Rule { name: "disablement", refuses: |key, _| key.disabled },
    Rule {
        name: "tenant",
        refuses: |key, _| key.tenant_suspended.then_some(Reason::TenantSuspended),
    },
    Rule { name: "owner", refuses: |key, _| key.owner_gone.then_some(Reason::OwnerGone) },
    Rule { name: "address", refuses: address },
    Rule { name: "kind", refuses: kind },
    Rule { name: "scopes", refuses: scopes },
];

fn environment(key: &Found, demand: &Demand) -> Option<Reason> {
    let other = demand.environment.is_some_and(|wanted| wanted != key.environment);
    other.then_some(Reason::WrongEnvironment)
}

fn revocation(key: &Found, _: &Demand) -> Option<Reason> {
    key.revoked_at.map(|_| Reason::Revoked)
}

fn expiry(key: &Found, demand: &Demand) -> Option<Reason> {
    if reached(key.expires_at, demand.now) {
        return Some(Reason::Expired);
    }
    let is_over = key.token.is_some_and(|token| token.expires_at <= demand.now);
    is_over.then_some(Reason::TokenExpired)
}

fn address(key: &Found, demand: &Demand) -> Option<Reason> {
    match (key.allowlists, demand.address) {
        (None, _) => None,
        (Some(_), None) => Some(Reason::IpUnknown),
        (Some(lists), Some(address)) => (!lists.admit(address)).then_some(Reason::IpNotAllowed),
    }
}

fn kind(key: &Found, demand: &Demand) -> Option<Reason> {
    (!kind_suffices(key.kind, demand.kind)).then_some(Reason::KindNotAllowed)
}

fn scopes(key: &Found, demand: &Demand) -> Option<Reason> {
    demand.scopes.refuses(&key.held)
}

/// Decides about a key that was found.
#[inline]
pub fn decide(found: &Found, demand: &Demand) -> Reason {
    RULES.iter().find_map(|rule| (rule.refuses)(found, demand)).unwrap_or(Reason::Ok)
}

/// A moment counts as passed from its first microsecond on.
fn reached(moment: Option<Instant>, now: Instant) -> bool {
    moment.is_some_and(|moment| moment <= now)
}

/// A secret key may be used wherever a publishable one may.
fn kind_suffices(kind: Option<Kind>, wanted: Option<&[u8]>) -> bool {
    match wanted.map(Kind::parse) {
        None => true,
        Some(None) => false,
        Some(Some(Kind::Publishable)) => kind.is_some(),
        Some(Some(Kind::Secret)) => kind == Some(Kind::Secret),
    }
}

#[cfg(test)]
mod tests {
    use super::super::allowlist::Allowlist;
    use super::super::implications::Implications;
    use super::super::scope::GrantList;
    use super::*;
    use crate::token::keys::SigningSecrets;
    use crate::token::new::NewToken;
    use crate::token::verify::{Recognized, recognize};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    struct Scopes(&'static [Option<&'static [u8]>]);
    impl Required for Scopes {
        fn refuses(&self, held: &HeldScopes) -> Option<Reason> {
            self.0.refuses(held)
        }
    }
    static WRITE: Scopes = Scopes(&[Some(b"images:write")]);
    static WRITE_AND_OTHER: Scopes = Scopes(&[Some(b"images:write"), Some(b"other")]);
    static NULL: Scopes = Scopes(&[None]);
    static NULL_AND_OTHER: Scopes = Scopes(&[Some(b"other"), None]);
    static NOTHING: Scopes = Scopes(&[]);

    static NONE: LazyLock<Implications> = LazyLock::new(Implications::default);

    fn good() -> (Found<'static>, Demand<'static>) {
        let own: &'static [&'static [u8]] = &[b"images:write"];
        let held = HeldScopes::new([Some(GrantList::Borrowed(own)), None, None], &NONE);
        let found = Found {
            environment: b"live",
            kind: Some(Kind::Secret),
            revoked_at: None,
            expires_at: None,
            disabled: None,
            tenant_suspended: false,
            owner_gone: false,
            allowlists: None,
            held,
            token: None,
        };
        let demand =
            Demand { environment: None, kind: None, scopes: &WRITE, address: None, now: 1000 };
        (found, demand)
    }

    /// A token until this moment, for some networks.
    fn token(expires_at: Instant, networks: Option<&[&str]>) -> Token {
        let keys = SigningSecrets::parse(&format!("1:{}", "11".repeat(32))).unwrap();
        let keys = keys.of_keyspace("default");
        let networks: Option<Vec<_>> = networks
            .map(|networks| networks.iter().map(|network| network.parse().unwrap()).collect());
        let new = NewToken {
            issuer: "default",
            audience: &[],
            key_id: &[1; 16],
            token_id: &[2; 16],
            tenant: "acme",
            environment: "live",
            scopes: &["images:write"],
            allowlist: networks.as_deref(),
            issued_at: expires_at - 60_000_000,
            expires_at,
            claims: &serde_json::Map::new(),
        };
        let signed = new.sign(keys.newest().unwrap()).ok().unwrap().token;
        match recognize(&keys, signed.as_bytes()) {
            Recognized::Token(presented) => presented.verify().unwrap(),
            _ => unreachable!("it is a token"),
        }
    }

    static PAST: LazyLock<Token> = LazyLock::new(|| token(0, None));

    struct Admits(bool);
    impl Allowlist for Admits {
        fn admits(&self, _: IpAddr) -> bool {
            self.0
        }
    }

    struct Lists([Option<Admits>; 4]);
    impl Allowlists for Lists {
        fn all(&self) -> [Option<&dyn Allowlist>; 4] {
            self.0.each_ref().map(|list| list.as_ref().map(|list| list as &dyn Allowlist))
        }
    }

    /// Each way to make a good case fail, in the order of the rules.
    fn spoil(found: &mut Found<'static>, demand: &mut Demand<'static>, reason: Reason) {
        match reason {
            Reason::WrongEnvironment => demand.environment = Some(b"test"),
            Reason::Revoked => found.revoked_at = Some(1000),
            Reason::Expired => found.expires_at = Some(1000),
            Reason::TokenExpired => found.token = Some(&PAST),
            Reason::Disabled | Reason::Idle => found.disabled = Some(reason),
            Reason::TenantSuspended => found.tenant_suspended = true,
            Reason::OwnerGone => found.owner_gone = true,
            Reason::IpNotAllowed => {
                found.allowlists =
                    Some(&Lists([Some(Admits(true)), None, Some(Admits(false)), None]));
                demand.address = Some(IpAddr::from([192, 0, 2, 1]));
            }
            Reason::KindNotAllowed => {
                found.kind = Some(Kind::Publishable);
                demand.kind = Some(b"secret");
            }
            Reason::InsufficientScope => demand.scopes = &WRITE_AND_OTHER,
            _ => unreachable!("not a reason of a rule"),
        }
    }

    const ORDER: [Reason; 10] = [
        Reason::WrongEnvironment,
        Reason::Revoked,
        Reason::Expired,
        Reason::TokenExpired,
        Reason::Disabled,
        Reason::TenantSuspended,
        Reason::OwnerGone,
        Reason::IpNotAllowed,
        Reason::KindNotAllowed,
        Reason::InsufficientScope,
    ];

    proptest! {
        #[test]
        fn the_first_reason_stands(spoiled in proptest::collection::vec(any::<bool>(), ORDER.len())) {
            let (mut found, mut demand) = good();
            let mut expected = Reason::Ok;
            for (reason, _) in ORDER.into_iter().zip(spoiled).filter(|(_, spoiled)| *spoiled) {
                spoil(&mut found, &mut demand, reason);
                if expected == Reason::Ok {
                    expected = reason;
                }
            }
            prop_assert_eq!(decide(&found, &demand), expected);
        }
    }

    #[test]
    fn an_expiry_still_to_come_does_not_refuse() {
        let (mut found, demand) = good();
        found.expires_at = Some(1001);
        assert_eq!(decide(&found, &demand), Reason::Ok);
    }

    #[test]
    fn a_revocation_refuses_whatever_the_clock_says() {
        let (mut found, demand) = good();
        for moment in [i64::MIN, 0, 1000, 1001, i64::MAX] {
            found.revoked_at = Some(moment);
            assert_eq!(decide(&found, &demand), Reason::Revoked, "{moment}");
        }
    }

    #[test]
    fn an_allowlist_needs_an_address() {
        let (found, mut demand) = good();
        for holder in 0..4 {
            let mut lists = Lists([const { None }; 4]);
            for (other, reason) in [(holder, Reason::Ok), ((holder + 1) % 4, Reason::IpNotAllowed)]
            {
                lists.0[other] = Some(Admits(other == holder));
                let found = Found { allowlists: Some(&lists), ..found };
                demand.address = None;
                assert_eq!(decide(&found, &demand), Reason::IpUnknown);
                demand.address = Some(IpAddr::from([192, 0, 2, 1]));
                assert_eq!(decide(&found, &demand), reason);
            }
        }
    }

    #[test]
    fn a_token_ends_at_its_moment() {
        let (mut found, mut demand) = good();
        let token = token(1_000_000, None);
        found.token = Some(&token);
        for (now, expected) in [(999_999, Reason::Ok), (1_000_000, Reason::TokenExpired)] {
            demand.now = now;
            assert_eq!(decide(&found, &demand), expected, "{now}");
        }
    }

    #[test]
    fn kinds() {
        let (mut found, mut demand) = good();
        for (kind, wanted, expected) in [
            (Some(Kind::Secret), Some(&b"publishable"[..]), Reason::Ok),
            (Some(Kind::Publishable), Some(b"publishable"), Reason::Ok),
            (Some(Kind::Publishable), None, Reason::Ok),
            (Some(Kind::Publishable), Some(b"secret"), Reason::KindNotAllowed),
            (Some(Kind::Secret), Some(b"SECRET"), Reason::KindNotAllowed),
            (Some(Kind::Secret), Some(b""), Reason::KindNotAllowed),
            (None, Some(b"secret"), Reason::KindNotAllowed),
        ] {
            (found.kind, demand.kind) = (kind, wanted);
            assert_eq!(decide(&found, &demand), expected, "{kind:?} {wanted:?}");
        }
    }

    #[test]
    fn a_null_is_not_held_whatever_the_key_holds() {
        let (mut found, mut demand) = good();
        for held in [HeldScopes::new([None; 3], &NONE), found.held] {
            found.held = held;
            for scopes in [&NULL, &NULL_AND_OTHER] {
                demand.scopes = scopes;
                assert_eq!(decide(&found, &demand), Reason::ScopesNull);
            }
        }
        demand.scopes = &NOTHING;
        assert_eq!(decide(&found, &demand), Reason::Ok);
    }
}
