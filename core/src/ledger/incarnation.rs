//! The database that a difference comes from.

use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"keysmith.incarnation.v1\0";

/// A number for a database of a server and its physical copies. Transaction ids are compared within
/// it only. A restored dump has another, even in the same cluster: a difference that was made in a
/// copy of a database is not accepted by the original.
pub fn incarnation(system_identifier: u64, database: u32) -> u64 {
    let digest = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(system_identifier.to_be_bytes())
        .chain_update(database.to_be_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_of_each_server_has_its_own() {
        let all = [incarnation(1, 2), incarnation(2, 1), incarnation(1, 3), incarnation(2, 2)];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one));
        }
    }
}
