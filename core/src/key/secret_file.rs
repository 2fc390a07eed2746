//! Files of secrets that live outside the database.
//!
//! Each line is a generation, `number:hex`. The number is 1 or more, and the hex at least 32
//! bytes. Blank lines and lines that start with `#` are skipped. The highest generation is the one
//! in use for what is new.

/// The least bytes of a secret: as many as a digest has.
const MIN_LEN: usize = 32;

/// The secrets of a file.
pub struct SecretFile {
    /// Generations and their secrets.
    pub newest_first: Vec<(i16, Vec<u8>)>,
    /// Whether there is a line of generation 0, which has a word instead of a secret.
    pub has_word: bool,
}

impl SecretFile {
    /// Reads the text of a file. `noun` is what messages call a secret; `word` is what generation 0
    /// may have. The error names the line and never shows its content.
    pub fn parse(text: &str, noun: &str, word: Option<&str>) -> Result<SecretFile, String> {
        let mut file = SecretFile { newest_first: Vec::new(), has_word: false };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |why: &str| format!("line {}: {why}", index + 1);
            let (number, digits) =
                line.split_once(':').ok_or_else(|| fail("must be generation:hex"))?;
            let (number, digits) = (number.trim(), digits.trim());
            if number == "0" && word == Some(digits) {
                file.has_word = true;
                continue;
            }
            let generation: i16 = match number.parse() {
                Ok(n) if n >= 1 => n,
                _ => return Err(fail("the generation must be a number from 1 to 32767")),
            };
            if file.newest_first.iter().any(|(other, _)| *other == generation) {
                return Err(fail("this generation is already there"));
            }
            let secret = hex::decode(digits).map_err(|_| fail(&format!("{noun} must be hex")))?;
            if secret.len() < MIN_LEN {
                return Err(fail(&format!("{noun} must have at least 32 bytes (64 hex digits)")));
            }
            file.newest_first.push((generation, secret));
        }
        if file.newest_first.is_empty() {
            return Err("no line of the form generation:hex".into());
        }
        file.newest_first.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(generation: i32, byte: &str) -> String {
        format!("{generation}:{}\n", byte.repeat(32))
    }

    #[test]
    fn the_newest_generation_comes_first() {
        let text = format!("# secrets\n\n{}  {}{}", line(1, "aa"), line(3, "bb"), line(2, "CC"));
        let file = SecretFile::parse(&text, "the secret", None).unwrap();
        let expected = [(3, vec![0xbb; 32]), (2, vec![0xcc; 32]), (1, vec![0xaa; 32])];
        assert!(file.newest_first == expected && !file.has_word);
    }

    #[test]
    fn generation_0_has_a_word_or_nothing() {
        let text = format!("0:unpeppered\n{}", line(1, "aa"));
        assert!(SecretFile::parse(&text, "the pepper", Some("unpeppered")).unwrap().has_word);
        for word in [None, Some("other")] {
            let error = SecretFile::parse(&text, "the secret", word).err().unwrap();
            assert!(error.starts_with("line 1: the generation must be"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_line_and_keep_the_secret() {
        let short = "1:aabbccdd";
        for (text, at) in [
            ("", "no line"),
            ("# only\n", "no line"),
            ("nonsense", "line 1"),
            ("0:aa", "line 1"),
            ("0:unpeppered", "no line"),
            ("-1:aa", "line 1"),
            ("40000:aa", "line 1"),
            ("1:xyz", "line 1: the pepper must be hex"),
            ("1:aéa", "line 1"),
            (short, "line 1: the pepper must have"),
            (&format!("{}{}", line(1, "aa"), line(1, "bb")), "line 2"),
        ] {
            let error = SecretFile::parse(text, "the pepper", Some("unpeppered")).err();
            let error = error.expect(text);
            assert!(error.contains(at), "{error}");
            assert!(!error.contains("aabbccdd"), "{error}");
        }
    }
}
