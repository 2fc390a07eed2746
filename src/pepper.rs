//! The configured peppers. An installation works without a pepper, and one can be added later.
//!
//! A reload only adds peppers. Keys in the directory are found without a pepper, so a pepper that is
//! in force stays so until the server restarts.

use crate::secret_file::{Known, SecretFile, Secrets, Texts};
use keysmith_core::key::pepper::Peppers;
use std::sync::LazyLock;
use std::thread::LocalKey;

pub static FILE: SecretFile<Peppers> = SecretFile::new(Texts {
    name: c"keysmith.pepper_file",
    description: c"File outside the data directory with the peppers of key digests.",
    explanation: c"One line for each generation, number:hex. Empty for no peppers.",
    noun: "peppers",
    section: "Peppers",
});

thread_local! {
    static KNOWN: Known<Peppers> = const { Known::nothing() };
}

impl Secrets for Peppers {
    const FILE: &'static SecretFile<Peppers> = &FILE;
    const KNOWN: &'static LocalKey<Known<Peppers>> = &KNOWN;

    fn parse(text: &str) -> Result<Peppers, String> {
        Peppers::parse(text)
    }

    fn is_same(&self, other: &Peppers) -> bool {
        self.are_all_in(other) && other.are_all_in(self)
    }

    fn problem_after(&self, known: &Peppers) -> Option<&'static str> {
        (!known.are_all_in(self))
            .then_some("lacks a pepper that is in force, or has another one: that needs a restart")
    }

    fn summary(&self) -> String {
        format!("its newest pepper is {}", self.newest())
    }
}

/// All peppers; empty if the library is not preloaded. Then keys that were stored with a pepper are
/// not found, and new keys can't be made in their keyspace.
#[inline]
pub fn peppers() -> &'static Peppers {
    static NONE: LazyLock<Peppers> = LazyLock::new(Peppers::default);
    FILE.secrets().unwrap_or_else(|| &NONE)
}

/// All peppers. If they lack a generation that the database has by now, the file is read first: the
/// session that stored it may have read the file before this one.
pub fn knowing(generation: i16) -> &'static Peppers {
    if generation > peppers().newest() {
        FILE.read_again().ok();
    }
    peppers()
}
