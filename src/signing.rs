//! The configured secrets that sign tokens, and the keys that each keyspace has by them.
//!
//! A reload may add secrets and take them away: the tokens of a generation that is gone are no
//! longer good.

use crate::secret_file::{Known, SecretFile, Secrets, Texts};
use keysmith_core::token::keys::{SigningSecrets, TokenKeys};
use pg::text;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread::LocalKey;

pub static FILE: SecretFile<SigningSecrets> = SecretFile::new(Texts {
    name: c"keysmith.signing_key_file",
    description: c"File outside the data directory with the secrets that sign tokens.",
    explanation: c"One line for each generation, number:hex. Empty for no tokens.",
    noun: "secrets",
    section: "Signing secrets",
});

thread_local! {
    static KNOWN: Known<SigningSecrets> = const { Known::nothing() };
    static KEYS: RefCell<Keys> = RefCell::default();
}

impl Secrets for SigningSecrets {
    const FILE: &'static SecretFile<SigningSecrets> = &FILE;
    const KNOWN: &'static LocalKey<Known<SigningSecrets>> = &KNOWN;

    fn parse(text: &str) -> Result<SigningSecrets, String> {
        SigningSecrets::parse(text)
    }

    fn is_same(&self, other: &SigningSecrets) -> bool {
        self == other
    }

    fn problem_after(&self, _: &SigningSecrets) -> Option<&'static str> {
        None
    }

    fn summary(&self) -> String {
        let generations: Vec<String> = self.generations().map(|g| g.to_string()).collect();
        format!("its generations are {}", generations.join(", "))
    }
}

/// The keys of keyspaces that this session has used.
#[derive(Default)]
struct Keys {
    /// The secrets that they were made from.
    secrets: Option<&'static SigningSecrets>,
    of_keyspaces: BTreeMap<Box<[u8]>, Rc<TokenKeys>>,
    none: Rc<TokenKeys>,
}

/// The most keyspaces whose keys a session remembers. Callers could name any number of them.
const MOST: usize = 256;

/// The keys of a keyspace; none without a configured file.
pub fn keys_of(keyspace: &[u8]) -> Rc<TokenKeys> {
    let secrets = FILE.secrets();
    KEYS.with_borrow_mut(|keys| {
        let Some(secrets) = secrets else { return keys.none.clone() };
        if !keys.secrets.is_some_and(|known| std::ptr::eq(known, secrets)) {
            keys.secrets = Some(secrets);
            keys.of_keyspaces.clear();
        }
        if let Some(known) = keys.of_keyspaces.get(keyspace) {
            return known.clone();
        }
        if keys.of_keyspaces.len() >= MOST {
            keys.of_keyspaces.clear();
        }
        let made = Rc::new(secrets.of_keyspace(&text::lossy(keyspace)));
        keys.of_keyspaces.insert(keyspace.into(), made.clone());
        made
    })
}

/// Reads the file again if it has changed, for a token with an unknown `kid`: the session that made
/// it may have read the file later than this one.
pub fn look_again() {
    FILE.look_again();
}
