//! The pepper file: secrets that live outside the database.
//!
//! It has the form of a [secret file](super::secret_file). New keys are stored under the highest
//! generation. A line must stay as long as keys are stored under it.
//!
//! Keys that were stored without a pepper are accepted only if there is a line `0:unpeppered`:
//! whoever can write to the table could add such keys.

use super::digest::{DIGEST_LEN, KeyDigest};
use super::secret_file::SecretFile;
use super::subkey::{ForKeys, Subkeys, Use};
use sha2::{Digest, Sha256};

/// The generation of a digest that was stored without a pepper.
pub const UNPEPPERED: i16 = 0;

/// In the pepper file, this word accepts keys that were stored without a pepper.
const NO_PEPPER: &str = "unpeppered";

/// All configured peppers. Only their subkeys are kept.
#[derive(Clone)]
pub struct Peppers {
    newest_first: Vec<(i16, Subkeys)>,
    accepts_unpeppered: bool,
}

/// No peppers: all keys are stored without one.
impl Default for Peppers {
    fn default() -> Self {
        Peppers { newest_first: Vec::new(), accepts_unpeppered: true }
    }
}

impl Peppers {
    /// Reads the text of a pepper file. The error names the line and never shows its content.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file = SecretFile::parse(text, "the pepper", Some(NO_PEPPER))?;
        let subkeys = |(generation, pepper): &(i16, Vec<u8>)| (*generation, Subkeys::of(pepper));
        Ok(Peppers {
            newest_first: file.newest_first.iter().map(subkeys).collect(),
            accepts_unpeppered: file.has_word,
        })
    }

    /// The generation of new digests.
    pub fn newest(&self) -> i16 {
        self.newest_first.first().map_or(UNPEPPERED, |(generation, _)| *generation)
    }

    /// Whether digests without a pepper are accepted.
    pub fn accepts_unpeppered(&self) -> bool {
        self.accepts_unpeppered
    }

    /// The generations that have a pepper, the newest first.
    pub fn generations(&self) -> impl Iterator<Item = i16> + '_ {
        self.newest_first.iter().map(|(generation, _)| *generation)
    }

    /// Whether all that these accept, the others accept too: each generation with the same pepper.
    pub fn are_all_in(&self, others: &Peppers) -> bool {
        let mark = |subkeys: &Subkeys| <ForKeys as Use>::subkey(subkeys).mac(b"");
        let is_there = |(generation, subkeys): &(i16, Subkeys)| {
            let other = others.newest_first.iter().find(|(other, _)| other == generation);
            other.is_some_and(|(_, other)| mark(other) == mark(subkeys))
        };
        (others.accepts_unpeppered || !self.accepts_unpeppered)
            && self.newest_first.iter().all(is_there)
    }

    /// A digest of content under the pepper of a generation, or without one for generation 0.
    /// `None` if there is no such generation.
    pub(crate) fn digest<U: Use>(
        &self,
        generation: i16,
        content: &[u8],
    ) -> Option<[u8; DIGEST_LEN]> {
        if generation == UNPEPPERED {
            let domain = Sha256::new().chain_update(U::DOMAIN);
            return Some(domain.chain_update(content).finalize().into());
        }
        let known = self.newest_first.iter().find(|(known, _)| *known == generation);
        known.map(|(_, subkeys)| U::subkey(subkeys).mac(content))
    }

    /// The generation and the stored digest of a new key.
    pub fn store(&self, digest: &KeyDigest) -> (i16, [u8; DIGEST_LEN]) {
        match self.newest_first.first() {
            Some((generation, subkeys)) => (*generation, digest.stored_with(Use::subkey(subkeys))),
            None => (UNPEPPERED, digest.stored()),
        }
    }

    /// Each form in which a key may be stored, the most likely one first.
    pub fn candidates<'a>(
        &'a self,
        digest: &'a KeyDigest,
    ) -> impl Iterator<Item = (i16, [u8; DIGEST_LEN])> + 'a {
        let unpeppered = self.accepts_unpeppered.then_some(());
        self.newest_first
            .iter()
            .map(|(generation, subkeys)| (*generation, digest.stored_with(Use::subkey(subkeys))))
            .chain(unpeppered.into_iter().map(|()| (UNPEPPERED, digest.stored())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(generation: i32, byte: &str) -> String {
        format!("{generation}:{}\n", byte.repeat(32))
    }

    fn generations(peppers: &Peppers) -> Vec<i16> {
        peppers.candidates(&KeyDigest::of(b"key")).map(|candidate| candidate.0).collect()
    }

    #[test]
    fn the_newest_generation_stores_and_all_are_looked_up() {
        let text = format!("# peppers\n\n{}{}", line(1, "aa"), line(3, "bb"));
        let peppers = Peppers::parse(&text).unwrap();
        let digest = KeyDigest::of(b"key");
        assert_eq!(generations(&peppers), [3, 1]);
        assert_eq!(peppers.store(&digest).0, 3);
        assert_eq!(
            peppers.store(&digest).1,
            digest.stored_with(Use::subkey(&Subkeys::of(&[0xbb; 32])))
        );
    }

    #[test]
    fn unpeppered_keys_are_accepted_where_the_file_says_so() {
        let text = format!("0:unpeppered\n{}", line(1, "aa"));
        let peppers = Peppers::parse(&text).unwrap();
        assert_eq!(generations(&peppers), [1, UNPEPPERED]);
        assert_eq!(peppers.store(&KeyDigest::of(b"key")).0, 1);
        assert_eq!(generations(&Peppers::default()), [UNPEPPERED]);
    }

    #[test]
    fn a_file_may_have_more_peppers_than_before() {
        let parse = |text: &str| Peppers::parse(text).unwrap();
        let (one, two) = (line(1, "aa"), line(2, "bb"));
        let known = parse(&format!("{one}{two}"));
        for more in [
            format!("# in another order\n{}\n{one}", two.to_uppercase()),
            format!("{one}{two}{}", line(3, "cc")),
            format!("0:unpeppered\n{one}{two}"),
        ] {
            assert!(known.are_all_in(&parse(&more)), "{more}");
        }
        for less in
            [&one, &two, &format!("{one}{}", line(2, "cc")), &format!("{one}{}", line(3, "bb"))]
        {
            assert!(!known.are_all_in(&parse(less)), "{less}");
        }
        assert!(!parse(&format!("0:unpeppered\n{one}")).are_all_in(&parse(&one)));
    }

    #[test]
    fn without_a_pepper_the_plain_form_is_stored() {
        let digest = KeyDigest::of(b"key");
        assert_eq!(Peppers::default().store(&digest), (UNPEPPERED, digest.stored()));
    }
}
