//! Tokens whose signatures were checked before.
//!
//! A session remembers them by the SHA-256 of the whole text. The text names its `kid`, and only a
//! text with a known `kid` is looked for: so a token is forgotten with the generation that signed
//! it, and is never found in another keyspace. Each decision asks again what the token allows.

use super::verify::{Invalid, Presented, Token};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

type TextDigest = [u8; 32];

/// How many tokens are remembered, and how many bytes they take.
const MOST: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;

/// The tokens of a session. The oldest ones make room for new ones.
#[derive(Default)]
pub struct Remembered {
    tokens: HashMap<TextDigest, Rc<Token>>,
    oldest_first: VecDeque<TextDigest>,
    bytes: usize,
}

impl Remembered {
    /// Checks the signature, if that was not done before. Bad tokens are not remembered.
    pub fn verify(&mut self, presented: &Presented) -> Result<Rc<Token>, Invalid> {
        let digest = Sha256::digest(presented.text()).into();
        if let Some(token) = self.tokens.get(&digest) {
            return Ok(Rc::clone(token));
        }
        let token = Rc::new(presented.verify()?);
        self.note(digest, &token);
        Ok(token)
    }

    fn note(&mut self, digest: TextDigest, token: &Rc<Token>) {
        let size = token.size();
        while self.tokens.len() >= MOST || self.bytes + size > MOST_BYTES {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            let forgotten = self.tokens.remove(&oldest);
            self.bytes -= forgotten.map_or(0, |token| token.size());
        }
        self.tokens.insert(digest, Rc::clone(token));
        self.oldest_first.push_back(digest);
        self.bytes += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::keys::{SigningSecrets, TokenKeys};
    use crate::token::new::NewToken;
    use crate::token::verify::{Recognized, recognize};

    fn token(keys: &TokenKeys, number: u128, scopes: &[&str]) -> String {
        let new = NewToken {
            issuer: "https://api.example.com",
            audience: &[],
            key_id: &[1; 16],
            token_id: &number.to_be_bytes(),
            tenant: "acme",
            environment: "live",
            scopes,
            allowlist: None,
            issued_at: 0,
            expires_at: 60_000_000,
            claims: &serde_json::Map::new(),
        };
        new.sign(keys.newest().unwrap()).ok().unwrap().token
    }

    fn verify(remembered: &mut Remembered, keys: &TokenKeys, text: &str) -> Rc<Token> {
        match recognize(keys, text.as_bytes()) {
            Recognized::Token(presented) => remembered.verify(&presented).unwrap(),
            _ => panic!("not a token"),
        }
    }

    fn keys() -> TokenKeys {
        SigningSecrets::parse(&format!("1:{}", "11".repeat(32))).unwrap().of_keyspace("default")
    }

    #[test]
    fn the_oldest_make_room() {
        let (keys, mut remembered) = (keys(), Remembered::default());
        let texts: Vec<String> =
            (0..=MOST as u128).map(|number| token(&keys, number, &["images:read"])).collect();
        let noted: Vec<Rc<Token>> =
            texts.iter().map(|text| verify(&mut remembered, &keys, text)).collect();
        assert_eq!((remembered.tokens.len(), remembered.oldest_first.len()), (MOST, MOST));
        let mut is_same = |at: usize| {
            let again = verify(&mut remembered, &keys, &texts[at]);
            Rc::ptr_eq(&again, &noted[at])
        };
        assert!(is_same(1) && is_same(MOST));
        assert!(!is_same(0) && !is_same(1) && is_same(3));
    }

    #[test]
    fn long_tokens_take_no_more_memory() {
        let (keys, mut remembered) = (keys(), Remembered::default());
        let scopes = vec!["a"; 2000];
        let counts: Vec<usize> = (0..30)
            .map(|number| {
                verify(&mut remembered, &keys, &token(&keys, number, &scopes));
                let bytes: usize = remembered.tokens.values().map(|token| token.size()).sum();
                assert!(bytes == remembered.bytes && bytes <= MOST_BYTES);
                remembered.tokens.len()
            })
            .collect();
        assert!(counts.contains(&10) && counts.last() < Some(&20), "{counts:?}");
        let last = verify(&mut remembered, &keys, &token(&keys, 29, &scopes));
        assert!(Rc::strong_count(&last) == 2, "the newest is not remembered");
    }
}
