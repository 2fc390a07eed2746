//! Tokens that are made from keys: JWTs (RFC 7519) that others can check without the database.
//!
//! The header of a token is always the same, but for the `kid`. These are its claims:
//!
//! | claim | content |
//! |---|---|
//! | `iss` | the keyspace's issuer |
//! | `aud` | whom the token is for: a text, or an array of them |
//! | `sub`, `client_id` | the id of the key: a key acts as itself (RFC 9068, section 2.2) |
//! | `jti` | the id of the token |
//! | `iat`, `exp` | seconds since 1970; the token is good until just before `exp` |
//! | `scope` | what the token may do, separated by spaces (RFC 8693, section 4.2) |
//! | `allowlist` | the networks that the token may be used from, if it names any |
//! | `tenant`, `environment` | those of the key, for readers without the database |
//!
//! Other claims are the caller's. They can't have the names of these, nor names that the
//! standards give a meaning about who acts, when, or with which rights.
//!
//! Nothing is secret about a token but the token itself: its signature is checked with a public
//! key, so the check need not take the same time for all tokens.

pub mod keys;
pub mod new;
pub mod remembered;
pub mod verify;

use crate::policy::rules::Instant;

/// The longest token, in bytes.
pub const MAX_TOKEN_LEN: usize = 8192;

/// A server that made a token may have a clock that is ahead of this one, by so much.
pub const LEEWAY: Instant = 60 * SECOND;

const SECOND: Instant = 1_000_000;

/// Seconds from 1970-01-01, where JWTs count from, to 2000-01-01, where PostgreSQL does.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// The last second that a claim may name: the end of the year 9999.
const MAX_SECOND: i64 = 253_402_300_799;

/// The second of a moment, as claims have it. A part of a second is cut off, so that a token never
/// lives longer than its key.
fn second_of(moment: Instant) -> i64 {
    moment.div_euclid(SECOND).saturating_add(POSTGRES_EPOCH)
}

/// The moment that a claim names, if it is one that we write.
fn moment_of(second: i64) -> Option<Instant> {
    (0..=MAX_SECOND).contains(&second).then(|| (second - POSTGRES_EPOCH) * SECOND)
}

/// A uuid in the form that PostgreSQL writes.
fn uuid_text(id: &[u8; 16]) -> String {
    let digits = hex::encode(id);
    let part = |from, to| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// Reads a uuid in exactly that form.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut id).ok()?;
    (uuid_text(&id) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_moments() {
        assert_eq!(second_of(0), POSTGRES_EPOCH);
        assert_eq!(second_of(999_999), POSTGRES_EPOCH);
        assert_eq!(second_of(-1), POSTGRES_EPOCH - 1);
        assert_eq!(moment_of(POSTGRES_EPOCH + 1), Some(SECOND));
        for bad in [-1, MAX_SECOND + 1, i64::MAX, i64::MIN] {
            assert_eq!(moment_of(bad), None, "{bad}");
        }
        // `infinity`, as PostgreSQL stores it.
        assert_eq!(moment_of(second_of(i64::MAX)), None);
    }

    #[test]
    fn uuids_have_one_form() {
        let text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        assert_eq!(uuid(text).map(|id| uuid_text(&id)).as_deref(), Some(text));
        for bad in [
            "",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
            "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
            "017f22e27-9b0-7cc3-98c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "é17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        ] {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }
}
