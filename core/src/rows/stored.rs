//! The digest of a value, as a column holds it.
//!
//! A column of texts holds `ks-sha256:` and 64 hexadecimal digits, or `ks-hmac-N:` and the digits
//! of the digest under pepper N. So a column may hold several generations. A column of bytes
//! holds three bytes as a mark, two for the generation, and the digest.

use super::same;
use crate::key::digest::DIGEST_LEN;
use crate::key::pepper::{Peppers, UNPEPPERED};
use crate::key::subkey::ForValues;

const SHA256: &str = "ks-sha256:";
const HMAC: &str = "ks-hmac-";

/// The longest text: its generation has five digits.
pub const TEXT_MOST: usize = HMAC.len() + 5 + 1 + 2 * DIGEST_LEN;

const MARK: [u8; 3] = *b"ks\x01";
pub const BYTES_LEN: usize = MARK.len() + 2 + DIGEST_LEN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Hmac,
}

impl Algorithm {
    pub fn named(name: &str) -> Option<Algorithm> {
        match name {
            "sha256" => Some(Algorithm::Sha256),
            "hmac" => Some(Algorithm::Hmac),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Hmac => "hmac",
        }
    }
}

/// A column that is to hold digests: `email` or `email=hmac`. If no algorithm follows the last
/// equals sign, all of it is the name.
pub fn column(argument: &str) -> (&str, Algorithm) {
    column_or(argument, Algorithm::Sha256)
}

/// The same, with the algorithm for a column that names none.
pub fn column_or(argument: &str, usual: Algorithm) -> (&str, Algorithm) {
    let named = argument.rsplit_once('=').and_then(|(column, algorithm)| {
        Algorithm::named(algorithm).map(|algorithm| (column, algorithm))
    });
    named.unwrap_or((argument, usual))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    generation: i16,
    digest: [u8; DIGEST_LEN],
}

impl Stored {
    /// The digest to store. `None` if the algorithm needs a pepper and none is configured.
    pub fn of(algorithm: Algorithm, value: &[u8], peppers: &Peppers) -> Option<Stored> {
        match algorithm {
            Algorithm::Sha256 => Stored::under(UNPEPPERED, value, peppers),
            Algorithm::Hmac => Some(peppers.newest())
                .filter(|newest| *newest != UNPEPPERED)
                .and_then(|newest| Stored::under(newest, value, peppers)),
        }
    }

    fn under(generation: i16, value: &[u8], peppers: &Peppers) -> Option<Stored> {
        let digest = peppers.digest::<ForValues>(generation, value)?;
        Some(Stored { generation, digest })
    }

    /// Each form in which a value may be stored.
    pub fn candidates(value: &[u8], peppers: &Peppers) -> Vec<Stored> {
        std::iter::once(UNPEPPERED)
            .chain(peppers.generations())
            .filter_map(|generation| Stored::under(generation, value, peppers))
            .collect()
    }

    /// Whether it is the digest of a value. False if its pepper is missing.
    pub fn matches(&self, value: &[u8], peppers: &Peppers) -> bool {
        Stored::under(self.generation, value, peppers)
            .is_some_and(|computed| same(&computed.digest, &self.digest))
    }

    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(TEXT_MOST);
        match self.generation {
            UNPEPPERED => text.push_str(SHA256),
            generation => text.push_str(&format!("{HMAC}{generation}:")),
        }
        let mut digits = [0; 2 * DIGEST_LEN];
        // Neither step can fail: there is room, and the digits are ASCII.
        let _ = hex::encode_to_slice(self.digest, &mut digits);
        text.push_str(str::from_utf8(&digits).unwrap_or_default());
        text
    }

    /// Reads only what `to_text` writes: no capitals, no leading zeros.
    pub fn from_text(text: &[u8]) -> Option<Stored> {
        let text = str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_MOST)?;
        let (generation, digits) = match text.strip_prefix(HMAC) {
            None => (UNPEPPERED, text.strip_prefix(SHA256)?),
            Some(rest) => {
                let (number, digits) = rest.split_once(':')?;
                let generation =
                    number.parse().ok().filter(|generation| *generation > UNPEPPERED)?;
                (generation, digits)
            }
        };
        let mut digest = [0; DIGEST_LEN];
        hex::decode_to_slice(digits, &mut digest).ok()?;
        Some(Stored { generation, digest }).filter(|stored| stored.to_text() == text)
    }

    pub fn to_bytes(&self) -> [u8; BYTES_LEN] {
        let mut bytes = [0; BYTES_LEN];
        let (mark, rest) = bytes.split_at_mut(MARK.len());
        let (generation, digest) = rest.split_at_mut(2);
        mark.copy_from_slice(&MARK);
        generation.copy_from_slice(&self.generation.to_be_bytes());
        digest.copy_from_slice(&self.digest);
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Stored> {
        let (generation, digest) = bytes.strip_prefix(&MARK)?.split_first_chunk()?;
        let generation = i16::from_be_bytes(*generation);
        let digest = digest.try_into().ok()?;
        Some(Stored { generation, digest }).filter(|stored| stored.generation >= UNPEPPERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peppers(generations: &[i16]) -> Peppers {
        let lines: Vec<String> = generations
            .iter()
            .map(|n| format!("{n}:{}", format!("{:02x}", n % 256).repeat(32)))
            .collect();
        if lines.is_empty() {
            Peppers::default()
        } else {
            Peppers::parse(&lines.join("\n")).unwrap()
        }
    }

    // Digests outlive releases: tables hold these values. Computed by another program.
    #[test]
    fn the_stored_forms_are_stable() {
        let plain = Stored::of(Algorithm::Sha256, b"abc", &Peppers::default()).unwrap();
        assert_eq!(
            plain.to_text(),
            "ks-sha256:16c9b65cf170f85c55f7bbaa06b9965828e147d0ad2ab45cf62357f1b62a007f"
        );
        let peppered = Stored::of(Algorithm::Hmac, b"abc", &peppers(&[1, 17])).unwrap();
        assert_eq!(
            peppered.to_text(),
            "ks-hmac-17:b7d5e49e70d7995636aa445f90236b14c49c48d8dc6610f668d98d9e566f5fd9"
        );
        assert_eq!(peppered.to_bytes()[..6], [b'k', b's', 1, 0, 17, peppered.digest[0]]);
    }

    #[test]
    fn hmac_takes_the_newest_pepper_and_needs_one() {
        assert_eq!(Stored::of(Algorithm::Hmac, b"abc", &Peppers::default()), None);
        let stored = Stored::of(Algorithm::Hmac, b"abc", &peppers(&[3, 9, 1])).unwrap();
        assert_eq!(stored.generation, 9);
    }

    #[test]
    fn a_digest_is_found_under_whatever_generation_it_was_made() {
        let now = peppers(&[1, 2]);
        let candidates = Stored::candidates(b"abc", &now);
        assert_eq!(candidates.len(), 3);
        for old in [
            Stored::of(Algorithm::Sha256, b"abc", &now),
            Stored::of(Algorithm::Hmac, b"abc", &peppers(&[1])),
        ] {
            assert!(candidates.contains(&old.unwrap()));
            assert!(old.unwrap().matches(b"abc", &now));
            assert!(!old.unwrap().matches(b"abd", &now));
        }
        let other = Stored::of(Algorithm::Hmac, b"abc", &peppers(&[3])).unwrap();
        assert!(!other.matches(b"abc", &now), "its pepper is not there");
    }

    #[test]
    fn only_what_is_written_is_read() {
        let text = Stored::of(Algorithm::Hmac, b"abc", &peppers(&[7])).unwrap().to_text();
        let plain = Stored::of(Algorithm::Sha256, b"abc", &Peppers::default()).unwrap().to_text();
        assert!(Stored::from_text(text.as_bytes()).is_some());
        for other in [
            text.to_uppercase(),
            text.replace("ks-hmac-7:", "ks-hmac-07:"),
            text.replace("ks-hmac-7:", "ks-hmac-+7:"),
            text.replace("ks-hmac-7:", "ks-hmac-0:"),
            text.replace("ks-hmac-7:", "ks-hmac--7:"),
            text.replace("ks-hmac-7:", "ks-hmac-32768:"),
            text.replace("ks-hmac-7:", "ks-hmac-7"),
            format!("{plain} "),
            format!(" {plain}"),
            format!("{plain}00"),
            plain.replace("ks-sha256:", "KS-SHA256:"),
            plain[..plain.len() - 1].into(),
            format!("{}A", &plain[..plain.len() - 1]),
            String::new(),
            "ks-sha256:".into(),
        ] {
            assert_eq!(Stored::from_text(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Stored::from_bytes(b"ks\x01\x00\x00"), None);
        assert_eq!(Stored::from_bytes(&[b"ks\x01\x80\x00".as_slice(), &[0; 32]].concat()), None);
    }

    #[test]
    fn columns_and_their_algorithms() {
        assert_eq!(column("email"), ("email", Algorithm::Sha256));
        assert_eq!(column("email=sha256"), ("email", Algorithm::Sha256));
        assert_eq!(column("phone=hmac"), ("phone", Algorithm::Hmac));
        assert_eq!(column("a=b"), ("a=b", Algorithm::Sha256));
        assert_eq!(column("a=hmac=sha256"), ("a=hmac", Algorithm::Sha256));
        assert_eq!(column("phone=md5"), ("phone=md5", Algorithm::Sha256));
    }

    #[test]
    fn what_is_the_same_is_so_to_the_last_byte() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"ab", b"abc"));
    }

    proptest! {
        #[test]
        fn both_forms_are_read_back(value: Vec<u8>, generation in 1i16..) {
            let peppers = peppers(&[generation]);
            for algorithm in [Algorithm::Sha256, Algorithm::Hmac] {
                let stored = Stored::of(algorithm, &value, &peppers).unwrap();
                prop_assert!(stored.to_text().len() <= TEXT_MOST);
                prop_assert_eq!(Stored::from_text(stored.to_text().as_bytes()), Some(stored));
                prop_assert_eq!(Stored::from_bytes(&stored.to_bytes()), Some(stored));
                prop_assert!(stored.matches(&value, &peppers));
            }
        }

        #[test]
        fn any_text_is_read_as_it_is_written_or_not_at_all(text in "ks-(sha256|hmac-[0-9]{1,5}):[0-9a-fA-F]{62,66}") {
            if let Some(stored) = Stored::from_text(text.as_bytes()) {
                prop_assert_eq!(stored.to_text(), text);
            }
        }

        #[test]
        fn a_match_is_a_candidate(one: Vec<u8>, other: Vec<u8>) {
            let peppers = peppers(&[1, 2]);
            for stored in Stored::candidates(&one, &peppers) {
                let is_candidate = Stored::candidates(&other, &peppers).contains(&stored);
                prop_assert_eq!(stored.matches(&other, &peppers), is_candidate);
            }
        }
    }
}
