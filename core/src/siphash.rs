//! SipHash-2-4 with 128 bits of output: a hash that nobody can aim without its key.

/// A hash under way.
#[derive(Clone)]
pub struct SipHasher {
    v: [u64; 4],
    /// Bytes that fill no word yet, the first of them lowest.
    tail: u64,
    length: usize,
}

impl SipHasher {
    pub fn new(key: [u64; 2]) -> SipHasher {
        let v = [
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ];
        SipHasher { v, tail: 0, length: 0 }
    }

    /// Adds bytes that are always as many at this place.
    #[inline]
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut SipHasher {
        let (words, last) = bytes.as_chunks::<8>();
        for word in words {
            self.part(u64::from_le_bytes(*word), 8);
        }
        if !last.is_empty() {
            let part = last.iter().rev().fold(0, |part, byte| (part << 8) | u64::from(*byte));
            self.part(part, last.len());
        }
        self
    }

    /// Adds up to eight bytes, the first of them lowest. The others are zero.
    #[inline]
    fn part(&mut self, part: u64, length: usize) {
        let held = self.length % 8;
        self.length = self.length.wrapping_add(length);
        self.tail |= part << (8 * held);
        if held + length >= 8 {
            self.word(self.tail);
            self.tail = if held == 0 { 0 } else { part >> (8 * (8 - held)) };
        }
    }

    /// Adds bytes and how many they are, so that no two sequences of these look alike.
    pub fn sized(&mut self, bytes: &[u8]) -> &mut SipHasher {
        self.fixed(&(bytes.len() as u64).to_le_bytes());
        self.fixed(bytes)
    }

    pub fn finish(mut self) -> u128 {
        let last = self.tail | ((self.length as u64) << 56);
        self.word(last);
        self.v[2] ^= 0xee;
        let low = self.output();
        self.v[1] ^= 0xdd;
        u128::from(low) | (u128::from(self.output()) << 64)
    }

    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(2);
        self.v[0] ^= word;
    }

    fn output(&mut self) -> u64 {
        self.rounds(4);
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
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
