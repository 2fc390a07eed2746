//! SipHash-2-4 with 128 bits of output. Without its key nobody can find inputs that have the
//! same hash.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// A hash under way.
#[derive(Clone)]
pub struct SipHasher(SipHasher24);

impl SipHasher {
    #[inline]
    pub fn new(key: [u64; 2]) -> SipHasher {
        SipHasher(SipHasher24::new_with_keys(key[0], key[1]))
    }

    /// Adds bytes whose number is the same in every sequence.
    #[inline]
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut SipHasher {
        self.0.write(bytes);
        self
    }

    /// Adds the number of bytes and the bytes. So two different sequences never look alike.
    #[inline]
    pub fn sized(&mut self, bytes: &[u8]) -> &mut SipHasher {
        self.0.write_u64(bytes.len() as u64);
        self.fixed(bytes)
    }

    #[inline]
    pub fn finish(self) -> u128 {
        self.0.finish128().as_u128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    /// From the reference implementation: of no byte, and of the byte 0.
    #[test]
    fn known_hashes() {
        let none = [
            0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
            0x02, 0x93,
        ];
        assert_eq!(SipHasher::new(KEY).finish().to_le_bytes(), none);
        let zero = [
            0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22,
            0xfc, 0x45,
        ];
        let mut hasher = SipHasher::new(KEY);
        hasher.fixed(&[0]);
        assert_eq!(hasher.finish().to_le_bytes(), zero);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0usize..100) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            let mut whole = SipHasher::new(KEY);
            whole.fixed(&bytes);
            let mut pieces = SipHasher::new(KEY);
            pieces.fixed(left).fixed(right);
            prop_assert_eq!(whole.finish(), pieces.finish());
        }
    }

    #[test]
    fn sizes_keep_sequences_apart() {
        let hash = |parts: &[&[u8]]| {
            let mut hasher = SipHasher::new(KEY);
            parts.iter().for_each(|part| {
                hasher.sized(part);
            });
            hasher.finish()
        };
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"", b"a"]), hash(&[b"a", b""]));
    }
}
