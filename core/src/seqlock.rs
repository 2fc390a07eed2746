//! Some words in shared memory that are read whole or not at all, without a lock.
//!
//! Their version is odd while a writer changes them. A reader that sees an odd version, or
//! another version after reading than before, has read nothing. A writer that dies leaves the
//! version odd: nobody reads these words again, and nobody waits for them.

use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU64, fence};

#[repr(C)]
pub struct SeqLock<const N: usize> {
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for SeqLock<N> {
    fn default() -> SeqLock<N> {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        SeqLock { version: AtomicU64::new(0), words }
    }
}

impl<const N: usize> SeqLock<N> {
    /// Whether no writer has come yet.
    pub fn is_unused(&self) -> bool {
        self.version.load(Relaxed) == 0
    }

    /// Whether the first words are these at the moment. One word may come from another writer
    /// than the next: only `read` returns what one writer wrote.
    #[inline]
    pub fn seems_to_start_with(&self, words: &[u64]) -> bool {
        self.words.iter().zip(words).all(|(place, word)| place.load(Relaxed) == *word)
    }

    #[inline]
    pub fn read(&self) -> Option<[u64; N]> {
        let version = self.version.load(Acquire);
        let words = std::array::from_fn(|n| self.words[n].load(Relaxed));
        fence(Acquire);
        let was_written = version != 0 && version.is_multiple_of(2);
        (was_written && self.version.load(Relaxed) == version).then_some(words)
    }

    /// Writes all words, unless another writer is at work. True if this writer was the first.
    pub fn write(&self, words: &[u64; N]) -> bool {
        let begun = self.begin();
        if let Some(version) = begun {
            self.set(words);
            self.end(version);
        }
        begun == Some(0)
    }

    pub(crate) fn begin(&self) -> Option<u64> {
        let version = self.version.load(Relaxed);
        if !version.is_multiple_of(2)
            || self.version.compare_exchange(version, version + 1, Acquire, Relaxed).is_err()
        {
            return None;
        }
        fence(Release);
        Some(version)
    }

    pub(crate) fn set(&self, words: &[u64]) {
        for (place, word) in self.words.iter().zip(words) {
            place.store(*word, Relaxed);
        }
    }

    pub(crate) fn end(&self, version: u64) {
        self.version.store(version.wrapping_add(2), Release);
    }
}
