//! The directory in shared memory: what sessions found out about keys, for each other.

use crate::settings;
use keysmith_core::directory::{Directory, Entry, Slot, WAYS};
use keysmith_core::siphash::SipHasher;
use pg::error::{Code, Error, Result};
use pg::shmem::{Place, Region};
use pgrx::pg_sys;
use std::sync::atomic::Ordering::Relaxed;

static PLACE: Place = Place::unknown();

pub static REGION: Region =
    Region { name: c"keysmith directory", size, locks: || 0, initialise, place: &PLACE };

/// What precedes the slots.
#[repr(C, align(64))]
struct Header {
    /// Of the hashes that entries are found by, drawn anew at each start.
    key: [u64; 2],
    slots: usize,
}

fn slots() -> usize {
    usize::try_from(settings::directory_size()).unwrap_or(0).next_multiple_of(WAYS)
}

fn size() -> usize {
    size_of::<Header>() + slots() * size_of::<Slot>()
}

/// # Safety
/// There must be `size()` bytes of fresh memory, aligned as shared memory is.
unsafe fn initialise(memory: *mut u8) -> Result<()> {
    let no_entropy =
        |_| Error::new(Code::Installation, "the operating system has no entropy to give");
    let key = [getrandom::u64().map_err(no_entropy)?, getrandom::u64().map_err(no_entropy)?];
    // SAFETY: as the caller promises; zeros are an empty slot.
    unsafe {
        std::ptr::write_bytes(memory, 0, size());
        memory.cast::<Header>().write(Header { key, slots: slots() });
    }
    Ok(())
}

/// Header and slots, where the library is preloaded.
fn shared() -> Option<(&'static Header, Directory<'static>)> {
    let memory = PLACE.memory.load(Relaxed);
    if memory.is_null() {
        return None;
    }
    // SAFETY: the memory was initialised before its place was noted, and lasts as long as
    // the process; the header is not written any more, the slots by atomics alone.
    unsafe {
        let header = &*memory.cast::<Header>();
        let first = memory.add(size_of::<Header>()).cast::<Slot>();
        Some((header, Directory::new(std::slice::from_raw_parts(first, header.slots))))
    }
}

/// What was handed in: other bytes of the one are no bytes of the other.
#[derive(Clone, Copy)]
pub enum Form {
    Key = 1,
    Digest = 2,
}

/// Something that was handed in for a key, with what is known of it.
pub struct Known {
    tag: u128,
    pub entry: Option<Entry>,
}

/// Looks up what is known. `None` where there is no directory.
#[inline]
pub fn look_up(keyspace: &[u8], form: Form, bytes: &[u8]) -> Option<Known> {
    let (header, directory) = shared()?;
    // SAFETY: set when the session was begun.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let mut hasher = SipHasher::new(header.key);
    let start = (u64::from(database) << 32) | ((form as u64) << 24) | keyspace.len() as u64;
    hasher.fixed(&start.to_le_bytes()).fixed(keyspace).fixed(bytes);
    let tag = hasher.finish();
    Some(Known { tag, entry: directory.find(tag) })
}

impl Known {
    /// Notes what was found out, for the next time.
    pub fn note(&self, entry: &Entry) {
        if self.entry != Some(*entry)
            && let Some((_, directory)) = shared()
        {
            directory.put(self.tag, entry);
        }
    }
}
