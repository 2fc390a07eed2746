//! The pepper file: secrets that live outside the database.
//!
//! One line a generation, `number:hex`, the number from 1 up and the hex at least
//! 32 bytes; blank lines and lines that start with `#` are skipped. New keys take
//! the highest generation. Older ones stay as long as keys are stored under them.

use super::digest::{DIGEST_LEN, KeyDigest, PepperKey};

/// Least bytes of a pepper: as many as the digest it guards.
const MIN_PEPPER_LEN: usize = 32;

/// Generation of a digest that was stored without a pepper.
pub const UNPEPPERED: i16 = 0;

/// All configured peppers, newest first.
#[derive(Clone, Default)]
pub struct Peppers(Vec<(i16, PepperKey)>);

impl Peppers {
    /// Reads a pepper file's text. The error names the line and never its content.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut peppers: Vec<(i16, PepperKey)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |why: &str| format!("line {}: {why}", index + 1);
            let (number, hex) =
                line.split_once(':').ok_or_else(|| fail("must be generation:hex"))?;
            let generation: i16 = match number.trim().parse() {
                Ok(n) if n >= 1 => n,
                _ => return Err(fail("the generation must be a number from 1 to 32767")),
            };
            if peppers.iter().any(|(other, _)| *other == generation) {
                return Err(fail("this generation is already there"));
            }
            let secret = unhex(hex.trim()).ok_or_else(|| fail("the pepper must be hex"))?;
            if secret.len() < MIN_PEPPER_LEN {
                return Err(fail("the pepper must have at least 32 bytes (64 hex digits)"));
            }
            peppers.push((generation, PepperKey::new(&secret)));
        }
        if peppers.is_empty() {
            return Err("no line of the form generation:hex".into());
        }
        peppers.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(Peppers(peppers))
    }

    /// Under which generation new keys are stored, and how.
    pub fn store(&self, digest: &KeyDigest) -> (i16, [u8; DIGEST_LEN]) {
        self.candidates(digest).next().unwrap_or((UNPEPPERED, digest.stored()))
    }

    /// Each form in which a key may be stored, the likeliest first.
    pub fn candidates<'a>(
        &'a self,
        digest: &'a KeyDigest,
    ) -> impl Iterator<Item = (i16, [u8; DIGEST_LEN])> + 'a {
        self.0
            .iter()
            .map(|(generation, pepper)| (*generation, digest.stored_with(pepper)))
            .chain(core::iter::once_with(|| (UNPEPPERED, digest.stored())))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(generation: i32, byte: &str) -> String {
        format!("{generation}:{}\n", byte.repeat(32))
    }

    #[test]
    fn the_newest_generation_stores_and_all_are_looked_up() {
        let text = format!("# peppers\n\n{}{}", line(1, "aa"), line(3, "bb"));
        let peppers = Peppers::parse(&text).unwrap();
        let digest = KeyDigest::of(b"key");
        let generations: Vec<i16> = peppers.candidates(&digest).map(|c| c.0).collect();
        assert_eq!(generations, [3, 1, UNPEPPERED]);
        assert_eq!(peppers.store(&digest).0, 3);
        assert_eq!(peppers.store(&digest).1, digest.stored_with(&PepperKey::new(&[0xbb; 32])));
    }

    #[test]
    fn without_a_pepper_the_plain_form_is_stored() {
        let digest = KeyDigest::of(b"key");
        assert_eq!(Peppers::default().store(&digest), (UNPEPPERED, digest.stored()));
    }

    #[test]
    fn errors_name_the_line_and_keep_the_secret() {
        let short = "1:aabbccdd";
        for (text, at) in [
            ("", "no line"),
            ("# only\n", "no line"),
            ("nonsense", "line 1"),
            ("0:aa", "line 1"),
            ("-1:aa", "line 1"),
            ("40000:aa", "line 1"),
            ("1:xyz", "line 1"),
            ("1:aéa", "line 1"),
            (short, "line 1"),
            (&format!("{}{}", line(1, "aa"), line(1, "bb")), "line 2"),
        ] {
            let error = Peppers::parse(text).err().expect(text);
            assert!(error.contains(at), "{error}");
            assert!(!error.contains("aabbccdd"), "{error}");
        }
    }
}
