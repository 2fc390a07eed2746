//! The uses of a pepper. Each use has a subkey, so that a digest made for one use is never
//! accepted for another.
//!
//! A subkey is HKDF-SHA-256 (RFC 5869) of the pepper: without a salt, with the label of the use as
//! the info, 32 bytes. Its type names the use, so the compiler rejects it for any other use.
//!
//! Without a pepper, each use has a domain instead: bytes that are hashed before the content. No
//! domain is the beginning of another.

use super::digest::DIGEST_LEN;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::marker::PhantomData;

/// A use of peppers.
pub trait Use: Sized {
    /// Its subkeys are derived with this label.
    const LABEL: &'static str;
    /// Without a pepper, this is hashed before the content.
    const DOMAIN: &'static [u8];
    fn subkey(subkeys: &Subkeys) -> &Subkey<Self>;
}

macro_rules! uses {
    ($($(#[$doc:meta])* $name:ident, $field:ident, $label:literal, $domain:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone)]
            pub enum $name {}

            impl Use for $name {
                const LABEL: &'static str = $label;
                const DOMAIN: &'static [u8] = $domain;

                #[inline]
                fn subkey(subkeys: &Subkeys) -> &Subkey<$name> {
                    &subkeys.$field
                }
            }
        )*

        /// The subkeys of one pepper.
        #[derive(Clone)]
        pub struct Subkeys {
            $($field: Subkey<$name>,)*
        }

        impl Subkeys {
            pub(crate) fn of(pepper: &[u8]) -> Subkeys {
                let pepper = Hkdf::new(None, pepper);
                Subkeys { $($field: Subkey::derived(&pepper),)* }
            }
        }

        /// The labels of all uses.
        #[cfg(test)]
        pub(crate) const LABELS: &[&str] = &[$($label),*];

        #[cfg(test)]
        const ALL: &[(&str, &[u8])] = &[$(($label, $domain)),*];
    };
}

uses! {
    /// Stored digests of API keys.
    ForKeys, keys, "keysmith/key/1", b"keysmith.key.v1\0";
    /// Digests that replace values in applications' tables.
    ForValues, values, "keysmith/value/1", b"keysmith.value.v1\0";
    /// Seals over rows of applications' tables.
    ForRows, rows, "keysmith/row/1", b"keysmith.row.v1\0";
    /// The seals of audit entries.
    ForChains, chains, "keysmith/chain/1", b"keysmith.chain.v1\0";
    /// The keys of ledgers. Without a pepper, a ledger stores its own secret, which replaces the domain.
    ForLedger, ledgers, "keysmith/ledger/1", b"keysmith.ledger.v1\0";
}

/// A key for one use: its HMAC state, computed once.
#[derive(Clone)]
pub struct Subkey<U>(Hmac<Sha256>, PhantomData<U>);

impl<U: Use> Subkey<U> {
    fn derived(pepper: &Hkdf<Sha256>) -> Subkey<U> {
        let mut key = [0; 32];
        let length = pepper.expand(U::LABEL.as_bytes(), &mut key);
        length.unwrap_or_else(|_| unreachable!("HKDF gives up to 8160 bytes"));
        let keyed = <Hmac<Sha256> as Mac>::new_from_slice(&key);
        Subkey(keyed.unwrap_or_else(|_| unreachable!("HMAC keys have no bad length")), PhantomData)
    }

    /// HMAC-SHA-256 over the content.
    #[inline]
    pub(crate) fn mac(&self, content: &[u8]) -> [u8; DIGEST_LEN] {
        self.0.clone().chain_update(content).finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac<U: Use>(pepper: &[u8], content: &[u8]) -> String {
        let mac = U::subkey(&Subkeys::of(pepper)).mac(content);
        mac.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // Databases hold digests made with these. Computed by Python's hmac.
    #[test]
    fn the_subkeys_are_stable() {
        let pepper = [0x11; 32];
        assert_eq!(
            mac::<ForKeys>(&pepper, b"abc"),
            "921ddd4c9e5ed1b6d2cb57167f81cb1cb33c23585e82a7c826e5cdc3c0541188"
        );
        assert_eq!(
            mac::<ForValues>(&pepper, b"abc"),
            "b7d5e49e70d7995636aa445f90236b14c49c48d8dc6610f668d98d9e566f5fd9"
        );
        assert_eq!(
            mac::<ForRows>(&pepper, b"abc"),
            "58b9cd702f71c587699000e9a53ba36285f420502cd788b71350618a442d9328"
        );
        assert_eq!(
            mac::<ForChains>(&pepper, b"abc"),
            "2ae909a904945d5ecc08d4813950754bd604e41248e38effe46ba51e28d70c7f"
        );
        // A pepper may be longer than a block of SHA-256.
        assert_eq!(
            mac::<ForKeys>(&[0xaa; 131], b"abc"),
            "d01d2cf42a9a2e0807609d51b4378f612aa395766ea10b783a01b811302fb705"
        );
    }

    #[test]
    fn no_two_uses_share_a_label_or_the_beginning_of_a_domain() {
        for (one, (label, domain)) in ALL.iter().enumerate() {
            for (other, (other_label, other_domain)) in ALL.iter().enumerate() {
                assert_eq!(one == other, label == other_label);
                assert_eq!(one == other, other_domain.starts_with(domain));
            }
        }
    }
}
