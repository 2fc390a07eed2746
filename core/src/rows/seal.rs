//! A digest over a row, kept in the row.
//!
//! It covers the table, and each value with its column and type. Each has its length before it, so
//! that different rows have different bytes. Nulls are left out. So seals still hold after a
//! column was added that is null.

use super::same;
use crate::key::digest::DIGEST_LEN;
use crate::key::pepper::{Peppers, UNPEPPERED};
use crate::key::subkey::ForRows;

/// The form of a seal: this byte, two for the generation of the pepper, the digest.
const FORM: u8 = 1;
pub const SEAL_LEN: usize = 3 + DIGEST_LEN;

/// A fault of a row.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    NotSealed,
    NoSeal,
    Unpeppered,
    UnknownPepper(i16),
    Altered,
}

impl Problem {
    pub fn text(&self) -> String {
        match self {
            Problem::NotSealed => "is not sealed".into(),
            Problem::NoSeal => "has something in place of a seal".into(),
            Problem::Unpeppered => {
                "is sealed without a pepper, so anyone could have done it".into()
            }
            Problem::UnknownPepper(generation) => {
                format!("is sealed with pepper {generation}, which is not configured")
            }
            Problem::Altered => "was altered, or is not where it was sealed".into(),
        }
    }
}

/// A row that is being sealed. Values come in the order of their columns' names, because the
/// order in the table may change with a restore, and differ in a partition.
pub struct RowImage(Vec<u8>);

impl RowImage {
    pub fn of(table: &[u8]) -> RowImage {
        let mut row = RowImage(Vec::with_capacity(512));
        row.part(table);
        row
    }

    pub fn value(&mut self, column: &[u8], kind: &[u8], value: &[u8]) {
        self.part(column);
        self.part(kind);
        self.part(value);
    }

    fn part(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
    }

    fn digest(&self, generation: i16, peppers: &Peppers) -> Option<[u8; DIGEST_LEN]> {
        peppers.digest::<ForRows>(generation, &self.0)
    }

    /// The seal, under the newest pepper if there is one.
    pub fn seal(&self, peppers: &Peppers) -> [u8; SEAL_LEN] {
        let generation = peppers.newest();
        let mut seal = [FORM; SEAL_LEN];
        let (head, digest) = seal.split_at_mut(3);
        head[1..].copy_from_slice(&generation.to_be_bytes());
        digest.copy_from_slice(&self.digest(generation, peppers).unwrap_or_default());
        seal
    }

    /// The fault of the row's seal, if any.
    pub fn check(&self, seal: Option<&[u8]>, peppers: &Peppers) -> Result<(), Problem> {
        let seal: &[u8; SEAL_LEN] =
            seal.ok_or(Problem::NotSealed)?.try_into().map_err(|_| Problem::NoSeal)?;
        let [form, high, low, digest @ ..] = seal;
        let generation = i16::from_be_bytes([*high, *low]);
        if *form != FORM || generation < UNPEPPERED {
            return Err(Problem::NoSeal);
        }
        if generation == UNPEPPERED && !peppers.accepts_unpeppered() {
            return Err(Problem::Unpeppered);
        }
        match self.digest(generation, peppers) {
            None => Err(Problem::UnknownPepper(generation)),
            Some(computed) if same(&computed, digest) => Ok(()),
            Some(_) => Err(Problem::Altered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peppers(text: &str) -> Peppers {
        Peppers::parse(&text.replace('*', &"5a".repeat(32))).unwrap()
    }

    fn row(table: &[u8], values: &[(Vec<u8>, Vec<u8>, Vec<u8>)]) -> RowImage {
        let mut row = RowImage::of(table);
        for (column, kind, value) in values {
            row.value(column, kind, value);
        }
        row
    }

    fn users() -> RowImage {
        row(
            b"public.users",
            &[(b"id".to_vec(), b"pg_catalog.int8".to_vec(), vec![0, 0, 0, 0, 0, 0, 0, 7])],
        )
    }

    // Seals outlive releases. These were computed by another program.
    #[test]
    fn the_form_is_stable() {
        let seal = |peppers: &Peppers| -> String {
            users().seal(peppers).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(
            seal(&Peppers::default()),
            "010000aac9dd3373e9d6eb8fc5a9b8e2e5d517e634f8e1de94441a67b75ab16559dec8"
        );
        assert_eq!(
            seal(&peppers("258:*")),
            "0101024c320e660b3621448897fda2c538cfa5dc852c6f5ef9ed2e0322a7d0861666b1"
        );
    }

    #[test]
    fn each_problem_has_its_name() {
        let (none, first) = (Peppers::default(), peppers("1:*"));
        let (plain, sealed) = (users().seal(&none), users().seal(&first));
        assert_eq!(users().check(Some(&plain), &none), Ok(()));
        assert_eq!(users().check(Some(&sealed), &first), Ok(()));
        assert_eq!(users().check(Some(&sealed), &peppers("1:*\n2:*")), Ok(()));
        assert_eq!(users().check(None, &first), Err(Problem::NotSealed));
        assert_eq!(users().check(Some(b""), &first), Err(Problem::NoSeal));
        assert_eq!(users().check(Some(&[2; SEAL_LEN]), &first), Err(Problem::NoSeal));
        assert_eq!(users().check(Some(&plain), &first), Err(Problem::Unpeppered));
        assert_eq!(users().check(Some(&plain), &peppers("0:unpeppered\n1:*")), Ok(()));
        assert_eq!(users().check(Some(&sealed), &peppers("2:*")), Err(Problem::UnknownPepper(1)));
        let other = row(b"public.others", &[]);
        assert_eq!(other.check(Some(&sealed), &first), Err(Problem::Altered));
        let mut forged = sealed;
        forged[SEAL_LEN - 1] ^= 1;
        assert_eq!(users().check(Some(&forged), &first), Err(Problem::Altered));
    }

    proptest! {
        /// Moving bytes from one part to its neighbour makes another row.
        #[test]
        fn no_two_rows_read_alike(
            one in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
            other in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
            cut in 0usize..6,
        ) {
            prop_assert_eq!(row(b"t", &one).0 == row(b"t", &other).0, one == other);
            if let Some((column, kind, value)) = one.first().filter(|(_, kind, _)| !kind.is_empty()) {
                let cut = cut % kind.len();
                let moved = (
                    [column.as_slice(), &kind[..cut]].concat(),
                    kind[cut..].to_vec(),
                    value.clone(),
                );
                let same = cut == 0;
                prop_assert_eq!(row(b"t", &[moved]).0 == row(b"t", &one[..1]).0, same);
            }
        }
    }
}
