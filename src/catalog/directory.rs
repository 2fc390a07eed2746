//! The directory in shared memory: the places of keys' rows that sessions have found, for all
//! sessions.

use crate::settings;
use keysmith_core::directory::{Directory, KeyEntry, Slot, WAYS};
use keysmith_core::siphash::SipHasher;
use pg::error::{Error, Result};
use pg::server;
use pg::shmem::{Region, shareable};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub static REGION: Region<Head, Slot> =
    Region::new(c"keysmith directory", head).with_elements(slots, |_, _| Slot::default());

shareable! {
    pub struct Head {
        /// The key of the hashes that entries are found by, random at each start.
        key: [u64; 2],
        /// How many slots hold an entry.
        used: AtomicU64,
    }
}

fn head() -> Result<Head> {
    let random = || getrandom::u64().map_err(Error::no_entropy);
    let key = [random()?, random()?];
    Ok(Head { key, used: AtomicU64::new(0) })
}

fn slots() -> usize {
    usize::try_from(settings::directory_size()).unwrap_or(0).next_multiple_of(WAYS)
}

/// How many keys the directory holds, of all databases, and how many it has room for. `None` if the
/// library is not preloaded.
pub fn room() -> Option<(u64, u64)> {
    REGION.whole().map(|(head, slots)| (head.used.load(Relaxed), slots.len() as u64))
}

/// What was presented. The same bytes as a key and as a digest have different entries. For a token
/// they are the id of its key.
#[derive(Clone, Copy)]
pub enum Form {
    Key = 1,
    Digest = 2,
    Token = 3,
}

/// A presented key, and its entry.
pub struct Known {
    tag: u128,
    pub entry: Option<KeyEntry>,
}

/// Looks up an entry. `None` if there is no directory.
#[inline]
pub fn look_up(keyspace: &[u8], form: Form, bytes: &[u8]) -> Option<Known> {
    let (header, slots) = REGION.whole()?;
    let database = server::my_database().to_u32();
    let mut hasher = SipHasher::new(header.key);
    let start = (u64::from(database) << 32) | ((form as u64) << 24) | keyspace.len() as u64;
    hasher.fixed(&start.to_le_bytes()).fixed(keyspace).fixed(bytes);
    let tag = hasher.finish();
    Some(Known { tag, entry: Directory::new(slots).find(tag) })
}

impl Known {
    /// Stores an entry, unless it is the same as before.
    pub fn note(&self, entry: &KeyEntry) {
        if self.entry != Some(*entry)
            && let Some((head, slots)) = REGION.whole()
            && Directory::new(slots).put(self.tag, entry)
        {
            head.used.fetch_add(1, Relaxed);
        }
    }
}
