//! The keys of a ledger. Each use has its own, so that nothing made for one use is accepted for
//! another, or by another ledger.

use super::sum::Sum;
use crate::key::pepper::{Peppers, UNPEPPERED};
use crate::key::subkey::{ForLedger, Subkeys, Use};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// HMAC-SHA-256 with its key.
pub(super) type Keyed = Hmac<Sha256>;

/// A ledger's id, drawn at random. It stays the same in a restored database.
pub type LedgerId = [u8; 16];
pub const SECRET_LEN: usize = 32;
pub const NONCE_LEN: usize = 16;
pub const MAC_LEN: usize = 32;

/// The random part of a nonce: 16 bytes of the operating system's generator. It is used once: what
/// takes it keeps it.
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// The bytes must be new, each time.
    pub fn of(bytes: [u8; NONCE_LEN]) -> Nonce {
        Nonce(bytes)
    }
}

/// The use of a mask.
#[derive(Clone, Copy)]
pub(super) enum Masked {
    Difference = 1,
    Block = 2,
    Range = 3,
}

#[derive(Clone)]
pub struct LedgerKeys {
    pub(super) column: Keyed,
    pub(super) row: Keyed,
    mask: Keyed,
    pub(super) difference: Keyed,
    pub(super) block: Keyed,
    pub(super) range: Keyed,
    nonce: Keyed,
}

/// Why a ledger has no keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoKeys {
    Unpeppered,
    UnknownPepper(i16),
}

impl NoKeys {
    pub fn text(&self) -> String {
        match self {
            NoKeys::Unpeppered => {
                "the ledger has no pepper, so anyone could have written it".into()
            }
            NoKeys::UnknownPepper(generation) => {
                format!("the ledger needs pepper {generation}, which is not configured")
            }
        }
    }
}

impl LedgerKeys {
    /// The keys of a ledger, by the generation of its pepper. The secret that is stored with the
    /// ledger takes the place of generation 0, where a file of peppers does not rule that out: else a
    /// ledger could be replaced by one without a pepper.
    pub fn of(
        peppers: &Peppers,
        generation: i16,
        secret: &[u8; SECRET_LEN],
        id: &LedgerId,
    ) -> Result<LedgerKeys, NoKeys> {
        if generation != UNPEPPERED {
            let derive = |content: &[u8]| peppers.digest::<ForLedger>(generation, content);
            LedgerKeys::derived(id, derive).ok_or(NoKeys::UnknownPepper(generation))
        } else if peppers.accepts_unpeppered() {
            Ok(LedgerKeys::unpeppered(secret, id))
        } else {
            Err(NoKeys::Unpeppered)
        }
    }

    pub(super) fn unpeppered(secret: &[u8; SECRET_LEN], id: &LedgerId) -> LedgerKeys {
        let subkeys = Subkeys::of(secret);
        let keys =
            LedgerKeys::derived(id, |content| Some(ForLedger::subkey(&subkeys).mac(content)));
        keys.unwrap_or_else(|| unreachable!("a secret has every subkey"))
    }

    fn derived(id: &LedgerId, mac: impl Fn(&[u8]) -> Option<[u8; MAC_LEN]>) -> Option<LedgerKeys> {
        let key = |purpose: u8| {
            let mut content = [purpose; 1 + size_of::<LedgerId>()];
            content[1..].copy_from_slice(id);
            let keyed = <Keyed as Mac>::new_from_slice(&mac(&content)?);
            Some(keyed.unwrap_or_else(|_| unreachable!("HMAC keys have no bad length")))
        };
        Some(LedgerKeys {
            column: key(1)?,
            row: key(2)?,
            mask: key(3)?,
            difference: key(4)?,
            block: key(5)?,
            range: key(6)?,
            nonce: key(7)?,
        })
    }

    /// The nonce for a content, whose sums are not masked yet and whose nonce is zeros. If the random
    /// part repeats, as in a copy of a running virtual machine, the nonce repeats only for the same
    /// content. Then the masked sums are the same too, and reveal nothing.
    pub(super) fn nonce(&self, random: Nonce, content: &[u8]) -> [u8; NONCE_LEN] {
        let nonce = self.nonce.clone().chain_update(random.0).chain_update(content);
        let nonce: [u8; MAC_LEN] = nonce.finalize().into_bytes().into();
        nonce.first_chunk().copied().unwrap_or_else(|| unreachable!("a MAC is longer"))
    }

    /// A number that looks random to all who lack the key. It is added to a sum to hide it.
    pub(super) fn mask(&self, of: Masked, nonce: &[u8; NONCE_LEN], place: u64) -> Sum {
        let mask = self.mask.clone().chain_update([of as u8]).chain_update(nonce);
        Sum::of(&mask.chain_update(place.to_be_bytes()).finalize().into_bytes().into())
    }
}

pub(super) fn mac(key: &Keyed, content: &[u8]) -> [u8; MAC_LEN] {
    key.clone().chain_update(content).finalize().into_bytes().into()
}

/// Whether a MAC is that of the content. The time does not depend on where they differ.
pub(super) fn is_mac(key: &Keyed, content: &[u8], mac: &[u8; MAC_LEN]) -> bool {
    key.clone().chain_update(content).verify_slice(mac).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keys: &LedgerKeys) -> Vec<[u8; MAC_LEN]> {
        let LedgerKeys { column, row, mask, difference, block, range, nonce } = keys;
        [column, row, mask, difference, block, range, nonce].map(|key| mac(key, b"")).to_vec()
    }

    #[test]
    fn each_use_of_each_ledger_has_its_own_key() {
        let text = format!("0:unpeppered\n1:{}\n2:{}", "11".repeat(32), "22".repeat(32));
        let peppers = Peppers::parse(&text).unwrap();
        let (one, other) = ([1; 16], [2; 16]);
        let of = |generation, id| LedgerKeys::of(&peppers, generation, &[3; 32], id).unwrap();
        let each = [of(1, &one), of(1, &other), of(2, &one), of(0, &one)];
        let mut keys: Vec<_> = each.iter().flat_map(all).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 28);
        // The secret takes the place of a pepper.
        let secret = LedgerKeys::unpeppered(&[0x11; 32], &one);
        assert_eq!(all(&secret), all(&of(1, &one)));
    }

    #[test]
    fn without_a_key_there_is_no_ledger() {
        let none = Peppers::default();
        let some = Peppers::parse(&format!("1:{}", "11".repeat(32))).unwrap();
        let fault =
            |peppers, generation| LedgerKeys::of(peppers, generation, &[1; 32], &[1; 16]).err();
        assert_eq!(fault(&none, UNPEPPERED), None);
        assert_eq!(fault(&none, 1), Some(NoKeys::UnknownPepper(1)));
        assert_eq!(fault(&none, -1), Some(NoKeys::UnknownPepper(-1)));
        assert_eq!(fault(&some, 1), None);
        assert_eq!(fault(&some, 2), Some(NoKeys::UnknownPepper(2)));
        // A ledger can't be replaced by one without a pepper.
        assert_eq!(fault(&some, UNPEPPERED), Some(NoKeys::Unpeppered));
    }

    #[test]
    fn nonces_differ_by_their_random_part_and_their_content() {
        let keys = LedgerKeys::unpeppered(&[3; 32], &[1; 16]);
        let nonce = |random, content: &[u8]| keys.nonce(Nonce::of([random; 16]), content);
        let nonces = [nonce(1, b""), nonce(2, b""), nonce(1, b"a"), nonce(1, b"b")];
        for (place, one) in nonces.iter().enumerate() {
            assert!(!nonces[..place].contains(one));
        }
        assert_eq!(nonce(1, b"a"), nonces[2]);
        let other = LedgerKeys::unpeppered(&[3; 32], &[2; 16]);
        assert_ne!(other.nonce(Nonce::of([1; 16]), b"a"), nonces[2]);
    }

    #[test]
    fn masks_differ_by_all_that_they_are_for() {
        let keys = LedgerKeys::unpeppered(&[3; 32], &[1; 16]);
        let masks = [
            keys.mask(Masked::Difference, &[1; 16], 0),
            keys.mask(Masked::Block, &[1; 16], 0),
            keys.mask(Masked::Range, &[1; 16], 0),
            keys.mask(Masked::Range, &[2; 16], 0),
            keys.mask(Masked::Range, &[2; 16], 1),
        ];
        for (place, mask) in masks.iter().enumerate() {
            assert!(!masks[..place].contains(mask));
        }
    }
}
