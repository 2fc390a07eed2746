//! New keys and ids. Each is drawn from a generator that is seeded by the operating system.

use super::format::{self, CHECKSUM_LEN, SECRET_LEN};
use rand::SeedableRng;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::{StdRng, SysError, SysRng};

/// A new key with the given prefix, which must be one that `format::is_prefix`
/// accepts. Fails only if the operating system has no entropy to give.
pub fn generate(prefix: &str) -> Result<String, SysError> {
    debug_assert!(format::is_prefix(prefix.as_bytes()));
    let mut generator = generator()?;
    loop {
        let mut key = String::with_capacity(prefix.len() + format::BODY_LEN);
        key.push_str(prefix);
        Alphanumeric.append_string(&mut generator, &mut key, SECRET_LEN);
        for digit in format::checksum_of(key.as_bytes()) {
            key.push(char::from(digit));
        }
        if !survives_swap_at_checksum(&key) {
            return Ok(key);
        }
    }
}

/// Random base62 characters, for ids that nobody can guess.
pub fn random(count: usize) -> Result<String, SysError> {
    Ok(Alphanumeric.sample_string(&mut generator()?, count))
}

/// A generator for one secret, with a seed of 256 bits. It must not outlive the call: a
/// process that is forked would continue the sequence of its parent.
fn generator() -> Result<StdRng, SysError> {
    StdRng::try_from_rng(&mut SysRng)
}

/// A CRC-32 detects any swap of neighbours inside the text that it covers. It may miss one
/// swap, once in some four billion keys: that of the secret's last character and the
/// checksum's first. Such keys aren't minted.
fn survives_swap_at_checksum(key: &str) -> bool {
    let mut swapped = key.as_bytes().to_vec();
    let edge = swapped.len() - CHECKSUM_LEN;
    swapped.swap(edge - 1, edge);
    swapped != key.as_bytes() && format::is_well_formed(&swapped)
}
