//! New keys, from the operating system's entropy.

use super::format::{self, ALPHABET, CHECKSUM_LEN, SECRET_LEN};

/// The largest multiple of 62 that a byte can hold. Bytes from here on are thrown
/// away, so that every character is equally likely.
const REJECT_FROM: u8 = (u8::MAX / 62) * 62;

/// A new key with the given prefix, which must be one that `format::is_prefix`
/// accepts. Fails only if the operating system has no entropy to give.
pub fn generate(prefix: &str) -> Result<String, getrandom::Error> {
    debug_assert!(format::is_prefix(prefix.as_bytes()));
    let mut random = Entropy::default();
    loop {
        let mut key = String::with_capacity(prefix.len() + format::BODY_LEN);
        key.push_str(prefix);
        for _ in 0..SECRET_LEN {
            key.push(char::from(random.character()?));
        }
        for digit in format::checksum_of(key.as_bytes()) {
            key.push(char::from(digit));
        }
        if !survives_swap_at_checksum(&key) {
            return Ok(key);
        }
    }
}

/// Random base62 characters, for names that can't be guessed.
pub fn random(count: usize) -> Result<String, getrandom::Error> {
    let mut random = Entropy::default();
    (0..count).map(|_| random.character().map(char::from)).collect()
}

/// A CRC-32 tells any swap of neighbours inside what it covers. The one swap it
/// may miss, once in some four billion keys, is across its own edge: the last
/// character of the secret and the first of the checksum. Such keys aren't minted.
fn survives_swap_at_checksum(key: &str) -> bool {
    let mut swapped = key.as_bytes().to_vec();
    let edge = swapped.len() - CHECKSUM_LEN;
    swapped.swap(edge - 1, edge);
    swapped != key.as_bytes() && format::is_well_formed(&swapped)
}

/// Base62 characters by rejection sampling over buffered random bytes.
struct Entropy {
    bytes: [u8; 64],
    used: usize,
}

impl Default for Entropy {
    fn default() -> Self {
        Entropy { bytes: [0; 64], used: 64 }
    }
}

impl Entropy {
    fn character(&mut self) -> Result<u8, getrandom::Error> {
        loop {
            if self.used == self.bytes.len() {
                getrandom::fill(&mut self.bytes)?;
                self.used = 0;
            }
            let byte = self.bytes[self.used];
            self.used += 1;
            if byte < REJECT_FROM {
                return Ok(ALPHABET[usize::from(byte % 62)]);
            }
        }
    }
}
